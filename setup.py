"""Packaging: what the wheel holds, what it needs, and what each extra adds.

Tool settings live in pyproject.toml and exact versions in requirements.lock; docs/dependencies.md
gives the reason for every name below. Lower bounds are the oldest releases with the interfaces
used here, upper bounds are left to the lock.
"""

import ast
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Returns `__version__` from the package's source; importing it would need its dependencies."""
    for node in ast.parse((ROOT / "seqrecipes" / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise RuntimeError("seqrecipes/__init__.py sets no __version__")


INSTALL_REQUIRES = [
    "etils[epath]>=1.11",
    "filelock>=3.29",
    "flax>=0.12.8",
    "gin-config>=0.5.0",
    "jax>=0.10.2",
    "matplotlib>=3.9",
    "ml-collections>=1.1.0",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "protobuf>=6.31.1",
    "rouge-score>=0.1.2",
    "sacrebleu>=2.6",
    "safetensors>=0.8",
    "scikit-learn>=1.5",
    # apache-beam needs protobuf below 7, whereas sentencepiece 0.2.3 refuses one below 7.36.1 on
    # import and does not say so in its metadata.
    "sentencepiece>=0.2.2,<0.2.3",
    "seqeval>=1.2.2",
    "tensorboardX>=2.6.2",
    "tokenizers>=0.22",
    "tqdm>=4.66",
]

# What reads through seqio or from TFDS; training needs none of it.
DATA = ["seqio>=0.0.20", "tensorflow>=2.21.0", "tensorflow-datasets>=4.9.10"]
BEAM = ["apache-beam>=2.77"]

EXTRAS_REQUIRE = {
    "cuda13": ["jax[cuda13]>=0.10.2"],
    "tpu": ["jax[tpu]>=0.10.2"],
    "hf": ["torch>=2.6", "transformers>=4.57"],
    "data": DATA,
    "beam": BEAM,
    # t5x is in no package index. Its own metadata names airio and jestimator by these very
    # addresses, and pip refuses a second, different address for one name, so only t5x is pinned.
    "t5x": [
        "airio @ git+https://github.com/google/airio",
        "cached-property",
        "chex",
        "fiddle>=0.2.5",
        "jaxtyping",
        "jestimator @ git+https://github.com/google-research/jestimator",
        "t5x @ git+https://github.com/google-research/t5x@cc342d419ec3e3e9c4bf1df33c82330cafdc1e16",
    ],
    "dev": [
        *DATA,
        *BEAM,
        "hypothesis>=6.100",
        "mypy>=1.15",
        "pytest>=8.3",
        "pytest-xdist>=3.6",
        "ruff>=0.11",
        "tensorboard>=2.20",
        "types-protobuf",
        "types-tqdm",
    ],
}

setup(
    name="seqrecipes",
    version=read_version(),
    description=(
        "Sequential pre-training of multilingual encoders and sequence-to-sequence models in JAX"
    ),
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    # configs/, gin/, tasks/ and tests/ are used from a clone and stay out of the wheel.
    packages=find_packages(include=["seqrecipes", "seqrecipes.*"]),
    package_data={"seqrecipes": ["data/sample/*.txt"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
