import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def own_registries() -> Iterator[None]:
    """Names that a user's file registers in a test are gone after it, until it is loaded anew."""
    yield
    for module, registry in (("trainables.models", "MODELS"), ("trainables.datasets", "DATASETS")):
        if module in sys.modules:
            known = getattr(sys.modules[module], registry)
            for name in list(known._owners):
                known._items.pop(name, None)
                known._owners.pop(name, None)
