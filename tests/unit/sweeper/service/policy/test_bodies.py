"""Bodies of requests: bounded texts, and clear words for what is no spec."""

import pytest

from sweeper.errors import SpecError
from sweeper.service.policy.bodies import parse_spec
from sweeper.service.policy.errors import RefusedError
from sweeper.service.policy.limits import Limits

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "media", "status", "sentence"),
    [
        (BOMB, "yaml", None, "at most 20000 values"),
        ("a: &a [*a]", "yaml", None, "must not repeat a value"),
        ("[" * 5000, "yaml", None, "20 levels deep"),
        ("{a: " * 30 + "1" + "}" * 30, "yaml", None, "20 levels deep"),
        ("1: 2", "yaml", None, "keys must be text"),
        ("a: !!python/object:os.system x", "yaml", None, "tag !!python/object:os.system"),
        ("a: .nan", "yaml", None, "finite"),
        ("a: " + "9" * 5000, "yaml", None, "sweep.yaml, line 1: a whole number"),
        ("[", "yaml", 400, "not YAML"),
        ("\x00", "yaml", 400, "not YAML"),
        ("[" * 100_000, "json", 400, "nested too deeply"),
        ('{"a": ' * 30 + "1" + "}" * 30, "json", None, "20 levels deep"),
        ('{"a": 1, "a": 2}', "json", None, "the key a occurs twice"),
        ('{"a": NaN}', "json", 400, "not a JSON number"),
        ('{"a": ' + "9" * 5000 + "}", "json", 400, "not JSON"),
        ("", "json", 400, "not JSON"),
        ("[]", "json", None, "must be a mapping"),
        ("[" + "1," * 30_000 + "1]", "json", None, "must be a mapping"),
        ('{"a": [' + "1," * 30_000 + "1]}", "json", None, "at most 20000 values"),
    ],
    ids=lambda v: str(v)[:20],
)
def test_texts_that_are_no_spec(text, media, status, sentence):
    with pytest.raises(SpecError, match=sentence) as error:
        parse_spec(text.encode(), f"application/{media}", Limits())
    assert getattr(error.value, "status", None) == status


def test_size_and_type_of_a_text():
    for body, media, status in ((b" " * 200_000, "application/json", 413), (b"{}", "text/plain", 415),
                                (b" " * 70_000, "text/yaml", 413), (b"\xff", "application/json", 400)):  # fmt: skip
        with pytest.raises(RefusedError) as error:
            parse_spec(body, media, Limits())
        assert error.value.status == status
