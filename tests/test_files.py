import errno
import os
from pathlib import Path

import pytest

from sonodetr.files import (
    InputError,
    check_apart,
    check_folder,
    closest,
    existing_file,
    read_json,
    whole_file,
    write_json,
)


def test_a_folder_that_can_be_written_is_not_made(tmp_path):
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "new"):
        with pytest.raises(InputError, match="file: is a file; choose another folder"):
            check_folder(folder)
    if Path("/proc/self").exists():  # where not even root may
        with pytest.raises(InputError, match=r"^/proc: cannot be written \(.*\); choose another"):
            check_folder(Path("/proc/nowhere"))


def test_closest_word_comes_first():
    assert closest("lerned", ["anchor", "learned"]).startswith("did you mean 'learned'? Allowed:")
    assert closest("xyz", ["anchor", "learned"]) == "Allowed: anchor, learned"


def test_whole_file_appears_only_at_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as part:
        part.write_text("text")
        assert not path.exists()
        assert part.suffix == ".txt"  # writers that look at the ending see the right one
    assert path.read_text() == "text"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_what_fails_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with whole_file(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_no_new_folder(tmp_path):
    (tmp_path / "kept").mkdir()
    for folder in (tmp_path / "new", tmp_path / "kept"):
        first, second = folder / "a" / "1.txt", folder / "a" / "2.txt"
        with pytest.raises(InputError), whole_file(first) as part, whole_file(second):
            raise OSError(errno.ENOSPC, part.write_text("half"))
    assert [path.name for path in tmp_path.rglob("*")] == ["kept"]


def test_full_disk_is_one_line_about_the_file(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(InputError, match=r"cannot write .*a\.txt: No space left"), whole_file(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_json(tmp_path / "file" / "a.json", {})


def test_a_link_stays_one(tmp_path):
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "link.json").symlink_to("a.json")
    write_json(tmp_path / "link.json", 7)
    assert (tmp_path / "link.json").is_symlink()
    assert read_json(tmp_path / "a.json") == 7


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(InputError, match=f"{name}: is a folder or device, not a file"):
            write_json(tmp_path / name, 7)
    assert (tmp_path / "pipe").is_fifo()


def test_results_apart_from_what_is_read(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    check_apart(tmp_path / "a.mp4", tmp_path / "b.mp4")
    check_apart(tmp_path / "one", tmp_path / "one" / "lines.jsonl", tmp_path / "one" / "a.mp4")
    for source, output in (("a.mp4", "one/../a.mp4"), ("one", "link/x.png"), ("one", "one")):
        with pytest.raises(InputError, match="is what is read, or would be next time"):
            check_apart(tmp_path / source, tmp_path / output)


def test_json_comes_back(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2.5, "é"]})
    assert read_json(tmp_path / "a.json") == {"a": [1, 2.5, "é"]}


def test_not_a_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b'{"a": 1,\n "b": ', "line 2, column 7"),
        (b"\xff\xfe\x00", "not a JSON text file"),
        (b"[" * 100_000, "not a JSON text file"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_existing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        existing_file(tmp_path / "a")
    with pytest.raises(InputError, match="is a folder"):
        existing_file(tmp_path)
    for name in ("a" * 300, "a\0b"):
        with pytest.raises(InputError, match="cannot be read"):
            existing_file(tmp_path / name)


def test_a_mark_of_byte_order_is_no_mistake(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "a.json") == [1]
