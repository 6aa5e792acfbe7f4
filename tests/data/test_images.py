import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from bncap.data.images import InspectedPicture, check_rejects, inspect_files, to_rgb
from bncap.errors import BncapError


def noise(mode="RGB", size=(64, 48)):
    return Image.effect_noise(size, 50).convert(mode)


def inspect(root, names):
    return inspect_files({name: root / name for name in names})


def reasons(root, *names):
    return {picture.image: picture.reason for picture in inspect(root, names)}


def png(width, height):
    """A PNG file of the given size in its header and next to nothing behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr"])
def test_a_picture_of_any_mode_is_usable(tmp_path, mode):
    name = "picture.tif" if mode in ("CMYK", "I", "F", "YCbCr") else "picture.png"
    pixels = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    picture = Image.fromarray(pixels) if mode == "I;16" else noise("L").convert(mode)
    assert picture.mode == mode
    picture.save(tmp_path / name)
    (found,) = inspect(tmp_path, [name])
    content = (tmp_path / name).read_bytes()
    assert found == InspectedPicture(name, 64, 48, len(content), hashlib.sha256(content).hexdigest())


def test_a_picture_turned_by_its_exif_orientation_has_its_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    noise().save(tmp_path / "turned.jpg", exif=exif)
    (found,) = inspect(tmp_path, ["turned.jpg"])
    assert (found.width, found.height) == to_rgb(Image.open(tmp_path / "turned.jpg")).size == (48, 64)


def test_unusable_pictures_have_their_reason_in_plain_words(tmp_path):
    noise().save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:900])
    noise().save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:900])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not a picture", "utf-8")
    (tmp_path / "folder.png").mkdir()
    noise(size=(7, 64)).save(tmp_path / "narrow.png")
    noise(size=(64, 31)).save(tmp_path / "flat.png")
    noise(size=(32, 32)).save(tmp_path / "small.png")
    names = ("cut.jpg", "cut.png", "empty.jpg", "text.png", "folder.png", "narrow.png", "flat.png", "small.png")
    found = reasons(tmp_path, *names, "none.jpg", "text.png/below.jpg", "nul\0.png")
    assert found.pop("cut.jpg").startswith("cannot be decoded: image file is truncated")
    assert found.pop("cut.png").startswith("cannot be decoded: ")
    assert found == {
        "empty.jpg": "the file is empty",
        "text.png": "cannot be decoded: not a picture in a format that is known",
        "folder.png": "cannot be read: Is a directory",
        "narrow.png": "7 px wide, at least 32 are needed",
        "flat.png": "31 px high, at least 32 are needed",
        "small.png": "",
        "none.jpg": "missing",
        "text.png/below.jpg": "missing",
        "nul\0.png": "cannot be read: embedded null byte",
    }


def test_decompression_bombs_are_recognised_by_their_header_and_not_decoded(tmp_path, monkeypatch, recwarn):
    (tmp_path / "large.png").write_bytes(png(12_000, 10_000))
    (tmp_path / "bomb.png").write_bytes(png(60_000, 60_000))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert reasons(tmp_path, "large.png", "bomb.png") == {
        "large.png": "12000 x 10000 px, at most 89,478,485 px are decoded",
        "bomb.png": "a decompression bomb, at most 89,478,485 px are decoded",
    }
    assert not recwarn.list


def test_several_threads_keep_the_order_of_the_names(tmp_path):
    names = [f"{n:02d}.png" for n in range(40)][::-1]
    for name in names:
        noise(size=(40, 40)).save(tmp_path / name)
    several = inspect_files({name: tmp_path / name for name in names}, jobs=4)
    assert [picture.image for picture in several] == names
    assert several == inspect_files({name: tmp_path / name for name in names}, jobs=1)
    assert len({picture.sha256 for picture in several}) == 40


def test_sixteen_bits_of_grey_become_eight_and_transparency_becomes_white():
    levels = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "PNG")
    seen = np.asarray(to_rgb(Image.open(stream)))
    assert seen.shape == (64, 64, 3)
    assert np.abs(seen - (levels / 257)[..., None]).max() < 1
    assert to_rgb(Image.new("RGBA", (4, 4), (255, 0, 0, 0))).getpixel((1, 1)) == (255, 255, 255)
    assert to_rgb(Image.new("RGBA", (4, 4), (255, 0, 0, 255))).getpixel((1, 1)) == (255, 0, 0)


def pictures(usable, rejected, reason="7 px wide, at least 32 are needed"):
    return [
        InspectedPicture(f"{n}.png", 64, 64, 9, "x", reason if n < rejected else "") for n in range(usable + rejected)
    ]


@pytest.mark.parametrize(
    ("usable", "rejected", "enough"), [(98, 2, "0.02"), (997, 3, "0.01"), (30, 1, "0.04"), (95, 5, "0.05")]
)
def test_too_many_unusable_pictures_stop_with_a_value_that_would_be_enough(tmp_path, usable, rejected, enough):
    found = pictures(usable, rejected)
    with pytest.raises(BncapError) as error:
        check_rejects(found, 0.001, tmp_path / "rejected.csv")
    message = str(error.value)
    assert f"{rejected} of {usable + rejected} pictures" in message
    assert "0.png: 7 px wide, at least 32 are needed" in message and str(tmp_path / "rejected.csv") in message
    assert message.endswith(f"--set data.max_rejected={enough}")
    check_rejects(found, float(enough), tmp_path / "rejected.csv")


def test_a_share_that_is_allowed_and_no_pictures_at_all_go_on(tmp_path):
    check_rejects(pictures(99, 1), 0.01, tmp_path / "rejected.csv")
    check_rejects([], 0.0, tmp_path / "rejected.csv")


def test_a_wrong_folder_is_called_that(tmp_path):
    with pytest.raises(BncapError, match="none of 3 pictures is there .*name the folder") as error:
        check_rejects(pictures(0, 3, "missing"), 0.5, tmp_path / "rejected.csv")
    assert "max_rejected" not in str(error.value)
