"""All cases of the data benchmark, built and run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from benchmarks import loading
from benchmarks.material import SEQUENCE_LENGTH, Material, make_material
from benchmarks.peers.cases import peers
from benchmarks.settings import Settings
from benchmarks.stages import stages
from benchmarks.timing import Case, Measurement, Missing, measure
from seqrecipes.data.blocks import MANIFEST, Blocks
from seqrecipes.data.objectives import OBJECTIVES
from seqrecipes.data.objectives.base import Objective
from seqrecipes.errors import UserError

SEEK_EXAMPLES = (0, 1_000_000, 1_000_000_000_000)
_MEMORY_BATCHES = 100
_RAW_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Results:
    """Everything that was measured.

    Attributes:
      measurements: rates.
      missing: what could not be measured.
      memory: objective -> memory of the loader.
      stages: objective -> microseconds an example, see `stages.stages`.
      seek: example -> seconds to the first batch there.
      material: the tokens measured on, in words.
    """

    measurements: list[Measurement]
    missing: list[Missing]
    memory: dict[str, loading.Memory]
    stages: dict[str, dict[str, float]]
    seek: dict[int, float]
    material: str


def run(settings: Settings, folder: Path) -> Results:
    """Builds everything in an empty folder and measures it.

    Raises:
      UserError: there is no such objective, or the text cannot be used.
    """
    if unknown := set(settings.objectives or ()) - set(OBJECTIVES):
        known = ", ".join(OBJECTIVES)
        raise UserError("--objectives", ", ".join(sorted(unknown)), f"choose among {known}.")
    material = make_material(
        folder,
        text=settings.text,
        vocabulary=settings.vocabulary,
        vocabulary_size=settings.vocabulary_size,
        characters=settings.characters,
        raw_characters=round(settings.characters * _RAW_SHARE),
    )
    objectives = {name: OBJECTIVES[name] for name in settings.objectives or OBJECTIVES}
    found = {name: _blocks(settings, material, o) for name, o in objectives.items()}
    blocks = {name: records for name, records in found.items() if isinstance(records, Blocks)}
    # Memory first, while no peer has left room behind that was freed and can be used again.
    memory, seek = {}, {}
    for name, records in blocks.items():
        loader = loading.loader(records, objectives[name], settings.batch_size)
        memory[name] = loading.memory(loader, _MEMORY_BATCHES)
    for name, records in list(blocks.items())[:1]:
        for example in SEEK_EXAMPLES:
            seek[example] = loading.seek_seconds(
                records.folder, objectives[name], settings.batch_size, example, settings.repetitions
            )
    cases: list[Case | Missing] = []
    for name, objective in objectives.items():
        source = found[name]
        if isinstance(source, Blocks):
            cases.append(loading.loading_case(source, name, objective, settings.batch_size))
            cases += peers(name, source, settings.batch_size, folder)
        else:
            cases.append(Missing(name, loading.OURS, source))
    cases += loading.raw_cases(material)
    return Results(
        measure([c for c in cases if isinstance(c, Case)], settings.repetitions, settings.seconds),
        [case for case in cases if isinstance(case, Missing)],
        memory,
        {n: stages(b, objectives[n], settings.batch_size) for n, b in blocks.items()},
        seek,
        _words(settings, material, blocks),
    )


def _blocks(settings: Settings, material: Material, objective: Objective) -> Blocks | str:
    """The records that an objective is measured on, or why there are none."""
    payload = objective.payload(SEQUENCE_LENGTH)
    needed = objective.sentinels(payload)
    if settings.prepared is None:
        if material.vocabulary.specials.sentinels < needed:
            return f"the vocabulary has fewer than {needed} sentinels"
        return material.blocks(objective)
    for manifest in sorted(settings.prepared.glob(f"*/{MANIFEST}")):
        blocks = Blocks(manifest.parent)
        suits = blocks.manifest["reads"] == objective.reads and blocks.payload == payload
        if suits and blocks.specials.sentinels >= needed:
            return blocks
    return f"--prepared has no {objective.reads} of {payload} tokens with {needed} sentinels"


def _words(settings: Settings, material: Material, blocks: dict[str, Blocks]) -> str:
    source = f"the text of {settings.text}" if settings.text else "the bundled sample, repeated"
    if settings.prepared:
        source = f"records of {settings.prepared}"
    words = [source]
    for name, records in list(blocks.items())[:1]:
        languages = records.manifest["splits"]["train"].values()
        documents = sum(counts["documents"] for counts in languages)
        words += [
            f"{records.tokens('train'):,} tokens in {len(records.languages)} languages ({name}), "
            f"{documents / records.counts('train').sum():.1f} documents a record",
            f"{records.specials.vocab_size:,} ids",
        ]
    words.append(f"raw text of {len(material.documents):,} documents")
    words.append(f"batches of {settings.batch_size} sequences of {SEQUENCE_LENGTH} tokens")
    return "; ".join(words)
