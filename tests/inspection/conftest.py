"""The sample, as the tests of the data prepare it."""

from tests.data.conftest import (  # noqa: F401 -- fixtures
    cache_dir,
    configured,
    prepared,
    sample_blocks,
    sample_task,
    vocabulary,
    vocabulary_path,
)
