"""Keys of a JSON file that others write too: what changes, what stays, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpufleet.host.plugins.module_utils.json_document import JsonError, parse, render, same
from ansible_collections.gpufleet.host.plugins.module_utils.json_settings import Settings, SettingsError
from ansible_collections.gpufleet.host.plugins.module_utils.tree import TreeError

CDI = {"features": {"cdi": True}}


class Place:
    """A file and the records beside it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "etc/daemon.json"
        self.state = folder / "state"
        self.state.mkdir()
        self.pending = folder / "pending"

    def write(self, text: str | bytes) -> None:
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def look(self, settings: Any = None, check: bool = False, **more: Any) -> Settings:
        wish = {
            "path": str(self.file),
            "owner": "engine",
            "state": "present" if settings is not None else "absent",
            "settings": settings or {},
            "defaults": [],
            "validate": None,
            "mode": "0644",
            "pending": str(self.pending),
            "state_path": str(self.state),
            **more,
        }
        return Settings(wish, check)

    def run(self, settings: Any = None, **more: Any) -> bool:
        """Make it true; the second time nothing may be left to do."""
        looked = self.look(settings, **more)
        changed = bool(looked.steps)
        foreseen = self.look(settings, check=True, **more)
        assert [step.path for step in foreseen.steps] == [step.path for step in looked.steps]
        looked.apply()
        assert self.look(settings, **more).steps == []
        self.pending.unlink(missing_ok=True)
        return changed

    @property
    def now(self) -> Any:
        return json.loads(self.file.read_bytes().decode("utf-8-sig"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


MERGES = [
    ("a missing key comes last", '{"a": 1}', {"b": 2}, '{"a": 1, "b": 2}'),
    ("objects are merged", '{"features": {"buildkit": true}}', CDI, '{"features": {"buildkit": true, "cdi": true}}'),
    ("a value is replaced in its place", '{"a": 1, "b": 2}', {"a": 3}, '{"a": 3, "b": 2}'),
    ("lists are united", '{"m": ["x", "y"]}', {"m": ["y", "z"]}, '{"m": ["x", "y", "z"]}'),
    ("a list in place of a text", '{"m": "x"}', {"m": ["y"]}, '{"m": ["y"]}'),
    ("true is not 1", '{"a": 1}', {"a": True}, '{"a": true}'),
    ("large integers keep their digits", '{"n": 12345678901234567890123}', {"a": 1}, None),
    ("fractions keep their digits", '{"n": 0.10000000000000000000001, "e": 1E400, "z": 1.0}', {"a": 1}, None),
    ("letters stay letters", '{"n": "ü < & 😀"}', {"a": 1}, None),
    ("half a pair stays escaped", '{"n": "\\ud800"}', {"a": 1}, None),
    ("tabs", '{\n\t"n": {\n\t\t"m": []\n\t}\n}', {"a": 1}, '{\n\t"n": {\n\t\t"m": []\n\t},\n\t"a": 1\n}'),
    ("four spaces, end of line", '{\n    "n": 1\n}\n', {"a": [1]}, '{\n    "n": 1,\n    "a": [\n        1\n    ]\n}\n'),
    ("Windows' line ends", '{\r\n  "n": 1\r\n}\r\n', {"a": 1}, '{\r\n  "n": 1,\r\n  "a": 1\r\n}\r\n'),
    ("an empty file", "", {"a": 1}, '{\n  "a": 1\n}\n'),
    ("an empty object", "{}", {"a": 1}, '{\n  "a": 1\n}'),
]


@pytest.mark.parametrize(("before", "settings", "after"), [row[1:] for row in MERGES], ids=[row[0] for row in MERGES])
def test_merge_and_absent(place: Place, before: str, settings: dict[str, Any], after: str | None) -> None:
    place.write(before)
    assert place.run(settings)
    text = place.file.read_bytes().decode()
    assert text == (after if after is not None else before[:-1] + ', "a": 1}')
    assert place.run()
    assert same(parse(place.file.read_bytes())[0], parse(before.encode())[0])
    assert not list((place.state / "owned").iterdir())


REFUSED = [
    ('{"a": 1,\n  // why\n "b": 2}', "line 2, column 3: a comment (//)"),
    ('{"a": 1} # why', "line 1, column 10: a comment (#)"),
    ('{"a": /* why */ 1}', "line 1, column 7: a comment (/*)"),
    ('{"a": 1,\n "a": 2}', "line 2, column 2: the key 'a' for the second time"),
    ('{"x": {"a": 1, "a": 1}}', "line 1, column 16: the key 'a' for the second time"),
    ('{"a": 1,\n}', "line 1, column 8: a comma before }"),
    ('{"a": [1,]}', "a comma before ]"),
    ('{"a": 1 "b": 2}', "line 1, column 9: neither a comma nor }"),
    ('{"a" 1}', "no colon after the key 'a'"),
    ("{a: 1}", "line 1, column 2: no key in double quotes"),
    ('{"a": NaN}', "'N' where a value belongs"),
    ('{"a": 01}', "neither a comma nor }"),
    ('{"a": "x\n"}', "a broken string"),
    ('{"a": 1', "neither a comma nor }"),
    ('{"a":', "the end of the file where a value belongs"),
    ("[1]", "no object"),
    ('{"a": 1} {}', "more text after the end"),
    ('{"a": ' + "[" * 200 + "]" * 200 + "}", "more than 100 levels"),
    (b'{"a":\n "\xff"}', "line 2, column 3: a byte that is no UTF-8"),
]


@pytest.mark.parametrize(("before", "said"), REFUSED, ids=[said for _, said in REFUSED])
@pytest.mark.parametrize("settings", [CDI, None], ids=["present", "absent"])
def test_no_strict_json_is_refused_and_nothing_changed(
    place: Place, before: str | bytes, said: str, settings: Any
) -> None:
    place.write(before)
    content = place.file.read_bytes()
    with pytest.raises(SettingsError) as error:
        place.look(settings)
    assert str(place.file) in str(error.value)
    assert said in str(error.value)
    assert place.file.read_bytes() == content
    assert not (place.state / "owned").exists()


def test_byte_order_mark_link_and_mode_stay(place: Place) -> None:
    place.write(b'\xef\xbb\xbf{"a": 1}')
    place.file.chmod(0o600)
    real = place.file.rename(place.file.with_name("real.json"))
    place.file.symlink_to("real.json")
    assert place.run(CDI)
    assert place.file.is_symlink()
    assert real.read_bytes() == b'\xef\xbb\xbf{"a": 1, "features": {"cdi": true}}'
    assert real.stat().st_mode & 0o777 == 0o600
    assert place.run()
    assert real.read_bytes() == b'\xef\xbb\xbf{"a": 1}'


def test_file_made_here_goes_and_one_that_others_wrote_to_stays(place: Place) -> None:
    assert place.run(CDI)
    assert place.file.stat().st_mode & 0o777 == 0o644
    assert place.run()
    assert not place.file.exists()
    place.run(CDI)
    place.write('{"features": {"cdi": true}, "theirs": 1}')
    place.run()
    assert place.now == {"theirs": 1}


def test_objects_that_were_there_stay(place: Place) -> None:
    place.write('{"features": {}}')
    place.run({**CDI, "runtimes": {"nvidia": {"path": "x", "args": []}}})
    place.run()
    assert place.now == {"features": {}}


def test_value_that_somebody_changed_since_is_left_to_them(place: Place) -> None:
    place.write('{"a": 1, "b": 1, "m": ["x"]}')
    place.run({"a": 2, "b": 2, "m": ["y"]})
    place.write('{"a": 5, "b": 2, "m": ["x", "z"]}')
    place.run()
    assert place.now == {"a": 5, "b": 1, "m": ["x", "z"]}


def test_drift_is_mended_and_the_newest_foreign_value_comes_back(place: Place) -> None:
    place.write('{"a": 1}')
    place.run({"a": 2})
    place.write('{"a": 5}')
    assert place.run({"a": 2})
    assert place.now == {"a": 2}
    place.run({"a": 3})  # an own change is none of somebody else
    place.run()
    assert place.now == {"a": 5}


def test_what_is_no_longer_wished_is_taken_back(place: Place) -> None:
    place.write('{"a": 1, "m": ["x"]}')
    place.run({"a": 2, "b": {"c": 1}, "m": ["y", "z"]})
    place.run({"m": ["z"]})
    assert place.now == {"a": 1, "m": ["x", "z"]}
    place.run()
    assert place.now == {"a": 1, "m": ["x"]}


def test_two_owners(place: Place) -> None:
    place.write('{"features": {"buildkit": true}}')
    place.run({"a": 1}, owner="engine")
    place.run(CDI, owner="toolkit")
    place.run(owner="engine")
    assert place.now == {"features": {"buildkit": True, "cdi": True}}
    place.run(owner="toolkit")
    assert place.now == {"features": {"buildkit": True}}


@pytest.mark.parametrize("first", ["engine", "toolkit"])
def test_two_owners_of_one_value_keep_it_until_the_last_is_gone(place: Place, first: str) -> None:
    place.write('{"features": {"cdi": false}}')
    place.run(CDI, owner="engine")
    place.run(CDI, owner="toolkit")
    place.run(owner=first)
    assert place.now == CDI
    place.run(owner="toolkit" if first == "engine" else "engine")
    assert place.now == {"features": {"cdi": False}}


@pytest.mark.parametrize("theirs", [{"features": {"cdi": False}}, {"features": "none"}])
def test_two_owners_with_two_wishes_are_told(place: Place, theirs: dict[str, Any]) -> None:
    place.run(CDI, owner="engine")
    with pytest.raises(SettingsError, match=r"/features/cdi was set by engine"):
        place.look(theirs, owner="toolkit")


def test_items_of_one_list_have_owners(place: Place) -> None:
    place.run({"m": ["x"]}, owner="engine")
    place.run({"m": ["y"]}, owner="toolkit")
    place.run(owner="engine")
    assert place.now == {"m": ["y"]}


def test_a_text_in_the_way_of_an_object_is_refused(place: Place) -> None:
    place.write('{"features": "none"}')
    with pytest.raises(SettingsError, match="/features is no object, and /features/cdi is wished inside"):
        place.look(CDI)


def test_defaults_yield_as_a_group(place: Place) -> None:
    groups = [{"log-driver": "local", "log-opts": {"max-size": "50m"}}, {"live-restore": True}]
    place.write('{"log-driver": "journald"}')
    assert place.look({}, defaults=groups).defaults_left == ["log-driver"]
    place.run({}, defaults=groups)
    assert place.now == {"log-driver": "journald", "live-restore": True}
    place.run({"live-restore": False}, defaults=groups)
    assert place.now == {"log-driver": "journald", "live-restore": False}
    place.run()
    assert place.now == {"log-driver": "journald"}


def test_checker_refuses_before_any_change(place: Place) -> None:
    place.write('{"a": 1}')
    with pytest.raises(TreeError, match="refuses the new content"):
        place.look(CDI, validate=["sh", "-c", "! grep cdi %s"])
    assert place.now == {"a": 1}
    assert not (place.state / "owned").exists()


def test_mark_stands_for_a_change_of_the_file_only(place: Place) -> None:
    place.write('{"features": {"cdi": true}}')
    looked = place.look(CDI)
    looked.apply()
    assert looked.keys == []
    assert not place.pending.exists(), "nothing follows from a record"
    place.look({"a": 1}).apply()
    assert place.pending.exists()
    assert place.look({"a": 1}).file.unfinished


@pytest.mark.parametrize("when", ["before", "after"])
def test_run_that_is_cut_off_at_the_file_loses_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    place.write('{"a": 1}')
    looked = place.look({"a": 2})
    change = looked.file.apply

    def cut_off() -> None:
        if when == "after":
            change()
        raise KeyboardInterrupt

    monkeypatch.setattr(looked.file, "apply", cut_off)
    with pytest.raises(KeyboardInterrupt):
        looked.apply()
    place.run({"a": 2})
    place.run()
    assert place.now == {"a": 1}


def test_record_is_for_root_only_and_a_broken_one_is_told(place: Place) -> None:
    place.run(CDI)
    record = place.state / "owned/engine.json"
    assert record.stat().st_mode & 0o777 == 0o600
    assert json.loads(record.read_text())["files"][str(place.file)]["claims"] == {"/features/cdi": {"ours": True}}
    record.write_text("{")
    with pytest.raises(SettingsError, match="the record of what engine set"):
        place.look(CDI)


def test_keys_at_the_top_that_changed(place: Place) -> None:
    place.write('{"a": 1, "b": {"c": 1}}')
    assert place.look({"a": 1, "b": {"c": 2}, "d": 1}).keys == ["b", "d"]


def test_a_directory_is_no_file(place: Place) -> None:
    os.makedirs(place.file)  # noqa: PTH103
    with pytest.raises(SettingsError, match="is no file"):
        place.look(CDI)


@pytest.mark.parametrize("text", ["{}", '{"a": [[], {}, [1, {"b": null}]]}', '{\n "a": {\n  "b": 1\n }\n}\n'])
def test_what_is_read_is_written_as_it_was(text: str) -> None:
    assert render(*parse(text.encode())).decode() == text


def test_error_is_an_exception_with_a_place() -> None:
    with pytest.raises(JsonError, match="line 3, column 1"):
        parse(b'{"a":\n1\n"')
