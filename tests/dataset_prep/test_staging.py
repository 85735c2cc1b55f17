"""Raw files as plain UTF-8, whole or not at all."""

import gzip
import hashlib
import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_prep import PreparationError, staging
from dataset_prep.staging import UNDECODABLE, ranges, stage, texts_between
from tests.dataset_prep.rows import contents, scratch_folder

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = "".join(f"line {number}: a café, あ\n" for number in range(1, 40_001))  # over one chunk
PLAIN = TEXT.encode()
MEMBER = "reviews.json"


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


TAR = tar_of({"other.json": b"other\n" * 2000, f"folder/{MEMBER}": PLAIN, "last": b"x"})
FORMS = {
    "plain": PLAIN,
    "byte-order mark": b"\xef\xbb\xbf" + PLAIN,
    "gzip": gzip.compress(PLAIN),
    "gzip in two members": gzip.compress(PLAIN[:5000]) + gzip.compress(PLAIN[5000:]),
    "zstd": zstd.compress(PLAIN),
    "tar": TAR,
    "tar, gzip": gzip.compress(TAR),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same_text_and_the_raw_files_fingerprint(form: str, tmp_path: Path) -> None:
    source = tmp_path / "raw"  # the content decides, not the name
    source.write_bytes(FORMS[form])
    staged = stage(source, tmp_path / "staged", encoding="utf-8", member=MEMBER)
    assert staged.path.read_bytes() == PLAIN
    assert staged.sha256 == hashlib.sha256(FORMS[form]).hexdigest()
    assert staged.size == len(FORMS[form])
    assert (staged.path == source) == (form == "plain")


def test_a_binary_file_is_only_fingerprinted(tmp_path: Path) -> None:
    source = tmp_path / "raw.parquet"
    source.write_bytes(FORMS["gzip"])
    staged = stage(source, tmp_path / "staged", encoding=None)
    assert (staged.path, staged.sha256) == (source, hashlib.sha256(FORMS["gzip"]).hexdigest())


@settings(deadline=None, max_examples=40)
@given(
    text=st.text(st.sampled_from('aZ09 \n"\t、。あいうアイウ漢字宿湯ー㈱'), max_size=60),
    encoding=st.sampled_from(["utf-8", "cp932", "euc_jp", "utf-16"]),
    chunk=st.integers(1, 9),
)
def test_encodings_survive_any_split_into_chunks(text: str, encoding: str, chunk: int) -> None:
    text = text.replace("㈱", "社") if encoding == "euc_jp" else text
    with scratch_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "CHUNK_BYTES", chunk)
        (folder / "raw").write_bytes(text.encode(encoding))
        staged = stage(folder / "raw", folder / "staged", encoding=encoding)
        assert staged.path.read_bytes() == text.encode()


@settings(deadline=None, max_examples=40)
@given(text=st.text(st.sampled_from("aあ\n"), max_size=60), size=st.integers(1, 40), chunk=st.integers(1, 9))
def test_ranges_are_the_file_cut_between_lines(text: str, size: int, chunk: int) -> None:
    with scratch_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "CHUNK_BYTES", chunk)
        raw = folder / "raw"
        raw.write_bytes(text.encode())
        cut = ranges(raw, size, encoding="utf-8")
        pieces = ["".join(texts_between(raw, *between, skip_broken=False)) for between in cut]
        assert "".join(pieces) == text
        assert all(pieces) and all(piece.endswith("\n") for piece in pieces[:-1])
        longest = max(map(len, text.encode().split(b"\n")))
        assert all(end - start <= size + longest for start, end in cut)


@pytest.mark.parametrize("form", FORMS)
def test_only_plain_text_has_ranges(form: str, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(FORMS[form])
    assert bool(ranges(tmp_path / "raw", 1000, encoding="utf-8")) == (form == "plain")
    assert not ranges(tmp_path / "raw", 1000, encoding="cp932")


@pytest.mark.parametrize("form", ["gzip", "zstd", "tar", "tar, gzip"])
def test_a_truncated_file_is_an_error_that_says_how_far_it_reads(form: str, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.write_bytes(FORMS[form][: len(FORMS[form]) * 2 // 3])
    with pytest.raises(PreparationError, match=r"raw, after line [\d,]+: truncated or damaged .*--on-error skip"):
        stage(source, tmp_path / "staged", encoding="utf-8", member=MEMBER)


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_a_damaged_byte_is_an_error(form: str, tmp_path: Path) -> None:
    checked = zstd.compress(PLAIN, options={zstd.CompressionParameter.checksum_flag: 1})
    damaged = bytearray(FORMS[form] if form == "gzip" else checked)
    damaged[-6 if form == "gzip" else -2] ^= 0xFF  # only the checksum can tell
    (tmp_path / "raw").write_bytes(damaged)
    with pytest.raises(PreparationError, match="truncated or damaged"):
        stage(tmp_path / "raw", tmp_path / "staged", encoding="utf-8")


def test_of_a_truncated_file_the_whole_lines_can_be_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = tmp_path / "raw.gz"
    source.write_bytes(FORMS["gzip"][:-100])
    kept = stage(source, tmp_path / "staged", encoding="utf-8", skip_broken=True).path.read_text(encoding="utf-8")
    assert TEXT.startswith(kept)
    assert kept.endswith("\n")
    assert f"damaged after line {kept.count(chr(10))} " in caplog.text
    assert kept.count("\n") > 30_000


@pytest.mark.parametrize("encoding", ["utf-8", "cp932", "euc_jp"])
def test_bytes_outside_the_encoding_are_an_error_with_their_line(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CHUNK_BYTES", 1000)
    source = tmp_path / "raw"
    source.write_bytes("湯\n".encode(encoding) * 7_000 + b"\x81 \n")
    with pytest.raises(PreparationError, match=rf"raw, line 7,001: not {encoding} \(.*--encoding"):
        stage(source, tmp_path / "staged", encoding=encoding)


@pytest.mark.parametrize("content", [b"\xef", b"\xef\xbb"])
def test_part_of_a_byte_order_mark_alone_is_outside_the_encoding(content: bytes, tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.write_bytes(content)
    with pytest.raises(PreparationError, match="raw, line 1: not utf-8"):
        stage(source, tmp_path / "staged", encoding="utf-8")


def test_bytes_outside_the_encoding_can_be_marked(tmp_path: Path) -> None:
    source = tmp_path / "raw"
    source.write_bytes(b"good\nb\xffd\ngood\n")
    staged = stage(source, tmp_path / "staged", encoding="utf-8", skip_broken=True)
    assert staged.path.read_text(encoding="utf-8") == f"good\nb{UNDECODABLE}d\ngood\n"


def test_a_line_without_end_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "LONGEST_LINE", 3 << 20)
    source = tmp_path / "bomb.gz"
    source.write_bytes(gzip.compress(b"short\n" + bytes(64 << 20)))
    with pytest.raises(PreparationError, match="line 2: longer than 3,145,728 characters"):
        stage(source, tmp_path / "staged", encoding="utf-8")
    assert (tmp_path / "staged").stat().st_size < 1 << 20


def test_names_inside_a_tar_reach_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    source = folder / "raw.tar"
    source.write_bytes(tar_of({"../escaped": b"1", "/escaped": b"2", f"../../{MEMBER}": b"wanted\n"}))
    assert stage(source, folder / "staged", encoding="utf-8", member=MEMBER).path == folder / "staged"
    assert set(contents(tmp_path)) == {"inner/raw.tar", "inner/staged"}


def test_a_tar_without_the_member_says_what_is_wanted(tmp_path: Path) -> None:
    source = tmp_path / "raw.tar"
    source.write_bytes(tar_of({"photos.json": b"1" * 600}))
    with pytest.raises(PreparationError, match=f"raw.tar: the tar holds no {MEMBER}"):
        stage(source, tmp_path / "staged", encoding="utf-8", member=MEMBER)


def test_an_unknown_encoding_or_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("x")
    with pytest.raises(PreparationError, match="encoding 'klingon' is unknown; try utf-8"):
        stage(tmp_path / "raw", tmp_path / "staged", encoding="klingon")
    with pytest.raises(PreparationError, match="absent: No such file"):
        stage(tmp_path / "absent", tmp_path / "staged", encoding="utf-8")


@pytest.mark.parametrize("packed", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
def test_a_file_that_unpacks_to_far_more_than_its_size_is_refused_before_the_disk_is_full(
    packed: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "UNPACKED_ANYWAY", 1 << 20)
    bomb = tmp_path / "bomb.json"
    bomb.write_bytes(packed(b"{}\n" * (10 << 20)))
    with pytest.raises(PreparationError, match=r"bomb\.json, after line [\d,]+: unpacks to over 200 times its size"):
        stage(bomb, tmp_path / "plain", encoding="utf-8")
    assert (tmp_path / "plain").stat().st_size <= (1 << 20) + 201 * bomb.stat().st_size
    reviews = tmp_path / "reviews.json"
    reviews.write_bytes(packed(b"\n".join(str(number).encode() for number in range(1 << 19))))
    stage(reviews, tmp_path / "plain", encoding="utf-8")
