"""Eight CPU devices for the whole session, so that meshes are tested on any machine; a vocabulary.

The variables are read when JAX starts, hence here, before any test imports it. Child processes
inherit them; a test that wants another number of devices sets `XLA_FLAGS` for its child.
"""

from __future__ import annotations

import os

import pytest

FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    # Tests compile much and compute little: LLVM's optimiser is not worth its time. The passes over
    # the graph, and with them sharding and cost analysis, are not concerned. Flags that only some
    # versions of XLA know must not stand here: it aborts on the others.
    "--xla_backend_optimization_level": "0",
}

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        *(
            flag
            for flag in os.environ.get("XLA_FLAGS", "").split()
            if flag.partition("=")[0] not in FLAGS
        ),
        *(f"{name}={value}" for name, value in FLAGS.items()),
    ]
)


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small one, trained on the sample."""
    from seqrecipes.data.corpora.sample import SampleCorpus
    from seqrecipes.data.vocabulary import sample_texts, train_vocabulary

    folder = tmp_path_factory.mktemp("vocabulary")
    return train_vocabulary(sample_texts(SampleCorpus()), 2000, folder, sentinels=5).read_bytes()
