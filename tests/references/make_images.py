"""Makes images.parquet: encoded images and the pixels that Pillow reads from them.

Run in an environment with pillow==13.0.0, pyarrow==26.0.1 and numpy:

    python tests/references/make_images.py tests/references/images.parquet

The pixels are those of `load_image` of transformers: `ImageOps.exif_transpose`, then
`convert("RGB")`. The column `tolerance` is the largest allowed difference of a level. It is 0
except for JPEG, whose decoders differ, and for chroma, which Pillow computes in integers. Legenda
scales grey of more than 8 bits, and Pillow clips it; the expected pixels are those of Legenda.
"""

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

Case = tuple[str, bytes, int]
ORIENTATION = 274
EXIF = b"Exif\0\0"


def test_image(width: int = 11, height: int = 7, mode: str = "RGB") -> Image.Image:
    """Returns an image that differs from all its rotations and reflections."""
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    planes = [20 * across + 10, 30 * down + 5, 7 * across + 11 * down, 250 - 17 * across]
    n_planes = {"L": 1, "LA": 2, "RGB": 3, "YCbCr": 3}.get(mode, 4)
    levels = np.stack(planes[:n_planes], axis=-1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if n_planes == 1 else levels, mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """Returns the encoded bytes of an image."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def expected(data: bytes) -> Image.Image:
    """Returns the pixels that transformers gives a model."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


# Orientation.


def exif(kind: int, value: bytes, count: int = 1, order: str = "<", before: bytes = b"") -> bytes:
    """Returns an EXIF block with the fields of `before`, then the orientation."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    n_fields = len(before) // 12 + 1
    field = struct.pack(order + "HHL", ORIENTATION, kind, count) + value.ljust(4, b"\0")
    fields = struct.pack(order + "LH", 8, n_fields) + before + field + bytes(4)
    return head + fields


def short(value: int, order: str = "<") -> bytes:
    """Returns an EXIF block with a valid orientation field."""
    return exif(3, struct.pack(order + "H", value), order=order)


def xmp(value: str, as_element: bool = False) -> bytes:
    """Returns an XMP packet with an orientation."""
    inside = f"<tiff:Orientation>{value}</tiff:Orientation>" if as_element else ""
    attribute = "" if as_element else f' tiff:Orientation="{value}"'
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        f'xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{attribute}>{inside}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def chunk(name: bytes, data: bytes) -> bytes:
    """Returns a PNG chunk."""
    return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(before: bytes = b"", after: bytes = b"") -> bytes:
    """Returns a PNG with chunks before and after its pixels."""
    data = saved(test_image(), "PNG")
    first, last = data.index(b"IDAT") - 4, data.index(b"IEND") - 4
    return data[:first] + before + data[first:last] + after + data[last:]


def webp(*chunks: tuple[bytes, bytes], flags: int = 0x0C) -> bytes:
    """Returns a lossless WebP with chunks after its pixels."""
    bare = saved(test_image(), "WEBP", lossless=True)
    size = b"".join(struct.pack("<L", edge - 1)[:3] for edge in test_image().size)
    parts = [(b"VP8X", bytes([flags, 0, 0, 0]) + size)]
    body = b"".join(
        name + struct.pack("<L", len(data)) + data + b"\0" * (len(data) % 2) for name, data in parts
    )
    body += bare[12:]
    for name, data in chunks:
        body += name + struct.pack("<L", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<L", len(body) + 4) + b"WEBP" + body


def jpeg(*segments: bytes) -> bytes:
    """Returns a JPEG with APP1 segments after its first marker."""
    data = saved(test_image(32, 16), "JPEG", quality=95, subsampling=0)
    inside = b"".join(b"\xff\xe1" + struct.pack(">H", len(s) + 2) + s for s in segments)
    return data[:2] + inside + data[2:]


def raw_profile(block: bytes) -> bytes:
    """Returns a raw profile in the format of ImageMagick."""
    digits = block.hex()
    lines = "\n".join(digits[start : start + 72] for start in range(0, len(digits), 72))
    return f"\nexif\n{len(block):8}\n{lines}\n".encode()


def orientations() -> Iterator[Case]:
    """Yields images with orientations in all locations, types and values."""
    for value in range(10):
        yield f"png-exif-{value}", png(chunk(b"eXIf", short(value))), 0
    rational = struct.pack("<LL", 12, 2)
    shorts = struct.pack("<HHH", 5, 1, 1)
    fields = {
        "long": exif(4, struct.pack("<L", 6)),
        "long-big-endian": exif(4, struct.pack(">L", 6), order=">"),
        "byte": exif(1, b"\x06"),
        "signed-byte": exif(6, b"\x06"),
        "signed-short": exif(8, struct.pack("<h", 8)),
        "signed-long": exif(9, struct.pack("<l", 7)),
        "undefined": exif(7, b"\x06"),
        "text": exif(2, b"6\0", 2),
        "float": exif(11, struct.pack("<f", 6)),
        "float-between": exif(11, struct.pack("<f", 6.5)),
        "pointer": exif(13, struct.pack("<L", 3)),
        "two": exif(3, struct.pack("<HH", 6, 3), 2),
        "three": exif(3, struct.pack("<L", 26), 3) + shorts,
        "rational": exif(5, struct.pack("<L", 26)) + rational,
        "beyond": exif(3, struct.pack("<L", 999), 3) + shorts,
        "twice": exif(3, struct.pack("<H", 8), before=exif(3, struct.pack("<H", 6))[10:22]),
        "after-too-large": exif(
            3, struct.pack("<H", 6), before=struct.pack("<HHLL", 271, 2, 9999, 8)
        ),
        "after-beyond": exif(3, struct.pack("<H", 6), before=struct.pack("<HHLL", 271, 2, 9, 999)),
        "after-unknown-type": exif(
            3, struct.pack("<H", 6), before=struct.pack("<HHLL", 271, 99, 9, 999)
        ),
        "swapped-version": b"MM*\0" + short(6, ">")[4:],
        "cut": short(6)[:-4],
        "cut-in-field": short(6)[:-8],
    }
    for name, block in fields.items():
        yield f"png-field-{name}", png(chunk(b"eXIf", block)), 0
    block, other = short(6, ">"), short(3)
    stripped = EXIF + block
    yield "png-after-pixels", png(after=chunk(b"eXIf", block)), 0
    yield "png-prefix", png(chunk(b"eXIf", stripped)), 0
    yield "png-before-and-after", png(chunk(b"eXIf", block), chunk(b"eXIf", other)), 0
    yield "png-after-end", png() + chunk(b"eXIf", block), 0
    key = b"Raw profile type exif"
    zipped = zlib.compress(raw_profile(stripped))
    international = key + b"\0\1\0en\0\0" + zipped
    profiles = {
        "tEXt": chunk(b"tEXt", key + b"\0" + raw_profile(stripped)),
        "zTXt": chunk(b"zTXt", key + b"\0\0" + zipped),
        "iTXt": chunk(b"iTXt", international),
        "app1": chunk(b"tEXt", b"Raw profile type APP1\0" + raw_profile(stripped)),
    }
    for name, text in profiles.items():
        yield f"png-profile-{name}", png(text), 0
    yield "png-profile-after", png(after=profiles["zTXt"]), 0
    yield "png-profile-and-exif", png(profiles["zTXt"] + chunk(b"eXIf", other)), 0
    yield "png-text-exif", png(chunk(b"tEXt", b"exif\0" + stripped)), 0
    for name, packet in {
        "attribute": xmp("6"),
        "element": xmp("8", as_element=True),
        "zero": xmp("0"),
        "two-digits": xmp("36"),
        "word": xmp("top"),
        "word-then-number": xmp("top") + xmp("5"),
    }.items():
        text = b"XML:com.adobe.xmp\0\0\0\0\0" + packet
        yield f"png-xmp-{name}", png(chunk(b"iTXt", text)), 0
        yield f"webp-xmp-{name}", webp((b"XMP ", packet)), 0
    zipped = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp("6"))
    yield "png-xmp-zipped-after", png(after=chunk(b"iTXt", zipped)), 0
    both = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp("6"))
    yield "png-xmp-and-exif", png(both + chunk(b"eXIf", short(3))), 0
    yield "png-xmp-and-invalid-exif", png(both + chunk(b"eXIf", short(0))), 0
    yield "png-xmp-and-other-exif", png(both + chunk(b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0")), 0
    for value in (1, 2, 5, 8):
        yield f"webp-exif-{value}", webp((b"EXIF", EXIF + short(value))), 0
    yield "webp-prefix-twice", webp((b"EXIF", EXIF + stripped)), 0
    yield "webp-bare", webp((b"EXIF", block)), 0
    yield "webp-without-flag", webp((b"EXIF", block), flags=0), 0
    yield "webp-twice", webp((b"EXIF", block), (b"EXIF", other)), 0
    yield "webp-odd", webp((b"ODD ", b"abc"), (b"EXIF", stripped)), 0
    yield "webp-xmp-and-exif", webp((b"XMP ", xmp("6")), (b"EXIF", stripped)), 0
    adobe = b"http://ns.adobe.com/xap/1.0/\0"
    yield "jpeg-long", jpeg(EXIF + fields["long"]), 3
    yield "jpeg-xmp", jpeg(adobe + xmp("6")), 3
    yield "jpeg-xmp-twice", jpeg(adobe + xmp("6"), adobe + xmp("3", as_element=True)), 3
    yield "jpeg-continued", jpeg(EXIF + block[:14], EXIF + block[14:]), 3
    yield "jpeg-after-other", jpeg(b"other\0" + block, EXIF + block), 3
    yield "jpeg-filled", jpeg()[:2] + b"\xff\xff" + jpeg(EXIF + block)[2:], 3


# TIFF.

Tags = dict[int, tuple[int, list[int]]]


def tiff(tags: Tags, strips: list[bytes], order: str = "<", big: bool = False) -> bytes:
    """Returns a TIFF file with the fields `{tag: (type, values)}`; the strips come first."""
    size, field, inline = ("Q", "HHQ", 8) if big else ("L", "HHL", 4)
    header = 16 if big else 8
    starts = [header + sum(map(len, strips[:idx])) for idx in range(len(strips))]
    is_tiled = 322 in tags
    tags = tags | {
        324 if is_tiled else 273: (4, starts),
        325 if is_tiled else 279: (4, [len(strip) for strip in strips]),
    }
    body = b"".join(strips)
    body += b"\0" * (len(body) % 2)
    formats = {1: "B", 3: "H", 4: "L", 7: "B", 16: "Q"}
    entries, extra = b"", b""
    offset = header + len(body) + (8 if big else 2) + len(tags) * (20 if big else 12) + inline
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{formats[kind]}", *values)
        if len(data) > inline:
            value_or_offset = struct.pack(order + size, offset + len(extra))
            extra += data + b"\0" * (len(data) % 2)
        else:
            value_or_offset = data.ljust(inline, b"\0")
        entries += struct.pack(order + field, tag, kind, len(values)) + value_or_offset
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(
        order + ("HHHQ" if big else "HL"),
        *((43, 8, 0, header + len(body)) if big else (42, header + len(body))),
    )
    count = struct.pack(order + ("Q" if big else "H"), len(tags))
    return head + body + count + entries + bytes(inline) + extra


def basic(width: int, height: int, photometric: int, bits: list[int], **more: int) -> Tags:
    """Returns the fields that every TIFF image has."""
    tags: Tags = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, bits),
        259: (3, [more.get("compression", 1)]),
        262: (3, [photometric]),
        277: (3, [len(bits)]),
        278: (3, [more.get("rows", height)]),
    }
    return tags


def packed(levels: np.ndarray, bits: int) -> bytes:
    """Packs samples of `bits` bits; each row starts at a byte boundary."""
    rows = levels.reshape(levels.shape[0], -1)
    digits = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(digits.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def colors(bits: int) -> list[int]:
    """Returns a palette."""
    n = 1 << bits
    return [
        (channel * 7919 + idx * 2657 + idx * idx) % 65536
        for channel in (1, 2, 3)
        for idx in range(n)
    ]


def tiffs() -> Iterator[Case]:
    """Yields the kinds of TIFF that Pillow reads."""
    width, height = 13, 9
    generator = np.random.default_rng(7)

    def random(bits: int, n: int = 1) -> np.ndarray:
        return generator.integers(0, 1 << bits, (height, width, n))

    for bits in (1, 2, 4, 8):
        grey = packed(random(bits), bits)
        for photometric in (0, 1):
            tags = basic(width, height, photometric, [bits])
            yield f"tiff-grey-{bits}-{photometric}", tiff(tags, [grey]), 0
        for order in "<>":
            tags = basic(width, height, 3, [bits]) | {320: (3, colors(bits))}
            yield f"tiff-palette-{bits}-{ord(order)}", tiff(tags, [grey], order), 0
        tags = basic(width, height, 1, [bits]) | {266: (3, [2])}
        turned = bytes(int(f"{byte:08b}"[::-1], 2) for byte in grey)
        yield f"tiff-lowest-first-{bits}", tiff(tags, [turned]), 0
    for order in "<>":
        for n, photometric, extra in [
            (3, 2, []),
            (4, 2, []),
            (4, 2, [0]),
            (4, 2, [1]),
            (4, 2, [2]),
            (4, 2, [999]),
            (5, 2, [0, 0]),
            (5, 2, [1, 0]),
            (5, 2, [2, 0]),
            (2, 1, [2]),
            (2, 1, [0]),
            (4, 5, []),
            (5, 5, [0]),
        ]:
            more: Tags = {338: (3, extra)} if extra else {}
            name = f"{photometric}-{n}-{'-'.join(map(str, extra))}-{ord(order)}"
            data = random(8, n).astype(np.uint8).tobytes()
            yield (
                f"tiff-8-{name}",
                tiff(basic(width, height, photometric, [8] * n) | more, [data], order),
                0,
            )
            if n < 5 and n != 2 and extra != [999]:
                data = random(16, n).astype(order + "u2").tobytes()
                tags = basic(width, height, photometric, [16] * n) | more
                yield f"tiff-16-{name}", tiff(tags, [data], order), 0
    samples = random(8, 3).astype(np.uint8)
    planes = [samples[..., idx].tobytes() for idx in range(3)]
    yield "tiff-planes", tiff(basic(width, height, 2, [8] * 3) | {284: (3, [2])}, planes), 0
    strips = [samples[top : top + 4].tobytes() for top in range(0, height, 4)]
    yield "tiff-strips", tiff(basic(width, height, 2, [8] * 3, rows=4), strips), 0
    yield "tiff-big", tiff(basic(width, height, 2, [8] * 3, rows=4), strips, big=True), 0
    whole = np.zeros((16, 32, 3), np.uint8)
    whole[:height, :width] = samples
    tiles = [
        whole[top : top + 8, left : left + 8].tobytes()
        for top in range(0, 16, 8)
        for left in range(0, 16, 8)
    ]
    tags = basic(width, height, 2, [8] * 3) | {322: (3, [8]), 323: (3, [8])}
    del tags[278]
    yield "tiff-tiles", tiff(tags, tiles), 0
    zipped = [zlib.compress(tile) for tile in tiles]
    yield "tiff-tiles-deflate", tiff(tags | {259: (3, [8])}, zipped), 0
    tall = generator.normal(120, 90, (height, width))
    for order in "<>":
        tags = basic(width, height, 1, [32]) | {339: (3, [3])}
        yield (
            f"tiff-float-{ord(order)}",
            tiff(tags, [tall.astype(order + "f4").tobytes()], order),
            0,
        )
        for bits, kind in ((16, "i2"), (32, "i4")):
            tags = basic(width, height, 1, [bits]) | {339: (3, [2])}
            data = tall.astype(order + kind).tobytes()
            yield f"tiff-signed-{bits}-{ord(order)}", tiff(tags, [data], order), 0
    for bits in (8, 16):
        for order in "<>":
            levels = random(bits, 3)
            steps = np.diff(levels, axis=1, prepend=0) % (1 << bits)
            data = zlib.compress(steps.astype(f"{order}u{bits // 8}").tobytes())
            tags = basic(width, height, 2, [bits] * 3, compression=8) | {317: (3, [2])}
            yield f"tiff-predictor-{bits}-{ord(order)}", tiff(tags, [data], order), 0
    # Pillow reads compressed big-endian floats as little-endian, so only the latter are tested.
    high_first = np.frombuffer(tall.astype(">f4").tobytes(), np.uint8).reshape(height, width, 4)
    rows = np.swapaxes(high_first, 1, 2).reshape(height, -1)
    data = zlib.compress(np.diff(rows.astype(int), axis=1, prepend=0).astype(np.uint8).tobytes())
    tags = basic(width, height, 1, [32], compression=8) | {317: (3, [3]), 339: (3, [3])}
    yield "tiff-float-predictor", tiff(tags, [data]), 0
    for value in (2, 3, 6, 7):
        turned = basic(width, height, 2, [8] * 3) | {ORIENTATION: (3, [value])}
        yield f"tiff-turned-{value}", tiff(turned, [samples.tobytes()], "<>"[value % 2]), 0
    turned = basic(width, height, 2, [8] * 3) | {ORIENTATION: (4, [8])}
    yield "tiff-turned-long", tiff(turned, [samples.tobytes()]), 0
    turned = basic(width, height, 2, [8] * 3) | {700: (1, list(xmp("6")))}
    yield "tiff-turned-xmp", tiff(turned, [samples.tobytes()]), 0
    compressions = ["packbits", "tiff_lzw", "tiff_adobe_deflate", "zstd"]
    for mode in ("L", "RGB", "RGBA", "CMYK"):
        for compression in compressions:
            data = saved(test_image(67, 41, mode), "TIFF", compression=compression)
            yield f"tiff-{compression}-{mode}", data, 0
    yield (
        "tiff-deflate-predictor",
        saved(test_image(), "TIFF", compression="tiff_adobe_deflate", tiffinfo={317: 2}),
        0,
    )
    lines = Image.fromarray((np.add.outer(np.arange(33) ** 2, np.arange(150) ** 2) // 97) % 3 > 0)
    empty = Image.new("1", (70, 9), 1)
    for name, bitmap in {
        "lines": lines,
        "white": empty,
        "black": Image.new("1", (2700, 3)),
    }.items():
        for compression in ("group3", "group4", "tiff_ccitt", "packbits"):
            yield f"tiff-{compression}-{name}", saved(bitmap, "TIFF", compression=compression), 0
        for options in (1, 4, 5):
            data = saved(bitmap, "TIFF", compression="group3", tiffinfo={292: options})
            yield f"tiff-group3-{options}-{name}", data, 0
    for mode in ("L", "RGB", "YCbCr"):
        data = saved(test_image(48, 32, mode), "TIFF", compression="jpeg", quality=95)
        yield f"tiff-jpeg-{mode}", data, 3
    luma = random(8, 3).astype(np.uint8)
    yield (
        "tiff-ycbcr",
        tiff(basic(width, height, 6, [8] * 3) | {530: (3, [1, 1])}, [luma.tobytes()]),
        1,
    )


def scaled() -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Yields grey images of more than 8 bits, and the levels that Legenda reads."""
    generator = np.random.default_rng(8)
    levels = generator.integers(0, 1 << 16, (5, 6))
    for order in "<>":
        data = levels.astype(order + "u2").tobytes()
        yield f"tiff-16-{ord(order)}", tiff(basic(6, 5, 1, [16]), [data], order), levels / 257
    few = levels >> 4
    yield "tiff-12", tiff(basic(6, 5, 1, [12]), [packed(few[..., None], 12)]), few / 4095 * 255
    yield "png-16", saved(Image.fromarray(levels.astype(np.uint16)), "PNG"), levels / 257
    pgm = b"P5 6 5 65535\n" + levels.astype(">u2").tobytes()
    yield "pgm-16", pgm, levels / 257


# Other formats.


def gif(
    canvas: tuple[int, int],
    frame: tuple[int, int, int, int],
    transparent: int | None = None,
    local: bool = False,
    interlaced: bool = False,
    background: int = 0,
) -> bytes:
    """Returns a GIF with 16 colours and one frame at a position on its canvas."""
    left, top, width, height = frame
    palette = bytes((37 * idx + 11) % 256 for idx in range(48))
    inner = Image.new("P", (width, height))
    inner.putpalette(palette)
    inner.putdata([(5 * idx + idx // 7) % 16 for idx in range(width * height)])
    body = saved(inner, "GIF", optimize=False, interlace=interlaced)
    pixels = body[body.index(b",", 13 + 48) + 10 : -1]
    flags = 0x83 | (0x40 if interlaced else 0)
    data = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0x83, background, 0) + palette[::-1]
    if not local:
        data = data[:13] + palette
    if transparent is not None:
        data += b"!\xf9\x04" + bytes([1, 0, 0, transparent, 0])
    local_flags = flags if local else flags & 0x40
    data += b"," + struct.pack("<HHHHB", left, top, width, height, local_flags)
    return data + (palette if local else b"") + pixels + b";"


def animations() -> Iterator[Case]:
    """Yields animations, of which the first frame is read."""
    yield "gif-whole", gif((9, 6), (0, 0, 9, 6)), 0
    yield "gif-smaller", gif((9, 6), (2, 1, 4, 3)), 0
    yield "gif-smaller-transparent", gif((9, 6), (2, 1, 4, 3), transparent=7), 0
    yield "gif-transparent", gif((9, 6), (0, 0, 9, 6), transparent=3), 0
    yield "gif-background", gif((9, 6), (5, 3, 4, 3), background=4), 0
    yield "gif-local", gif((9, 6), (0, 2, 9, 3), local=True), 0
    yield "gif-local-transparent", gif((9, 6), (1, 0, 3, 6), transparent=9, local=True), 0
    yield "gif-larger", gif((5, 4), (2, 3, 7, 6)), 0
    yield "gif-wide", gif((5, 9), (0, 0, 8, 2), transparent=2), 0
    yield "gif-interlaced", gif((9, 13), (1, 1, 7, 11), interlaced=True), 0
    frames = [test_image(), test_image().rotate(180), Image.new("RGB", (11, 7), "red")]
    clear = [test_image(mode="RGBA"), test_image(mode="RGBA").rotate(180)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        more = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **more)
        yield f"frames-{kind}", data, 0
        if kind != "GIF":
            data = saved(clear[0], kind, save_all=True, append_images=clear[1:], **more)
            yield f"frames-clear-{kind}", data, 0
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)
    yield "frames-default", data, 0
    last = data.index(b"IEND") - 4
    yield "frames-exif-at-end", data[:last] + chunk(b"eXIf", short(6)) + data[last:], 0


def pnm() -> Iterator[Case]:
    """Yields portable bitmaps, greymaps and pixmaps."""
    levels = " ".join(str(level) for level in (0, 7, 15, 3, 9, 12))
    texts = {
        "P1": b"P1\n# a comment\n3 2\n1 0 1\n0 1 1\n",
        "P1-close": b"P1 3 2\n101011",
        "P2": b"P2 3 2 15\n" + levels.encode(),
        "P3": b"P3 2 1 15\n" + levels.encode() + b"\n",
        "P4": b"P4\n11 2\n" + bytes([0b10110011, 0b01000000, 0b00001111, 0b11100000]),
        "P5": b"P5\n# a\n# b\n3 2\n255\n" + bytes([0, 50, 100, 150, 200, 255]),
        "P5-100": b"P5 3 2 100\n" + bytes([0, 50, 100, 33, 66, 99]),
        "P6": b"P6 2 1 255\n" + bytes([0, 50, 100, 150, 200, 255]),
        "P6-7": b"P6 2 1 7\n" + bytes([0, 1, 2, 3, 4, 7]),
        "P6-65535": b"P6 2 1 65535\n" + struct.pack(">6H", 0, 1000, 20000, 40000, 65000, 65535),
        "P6-1000": b"P6 2 1 1000\n" + struct.pack(">6H", 0, 1, 200, 499, 500, 1000),
    }
    for name, data in texts.items():
        yield f"pnm-{name}", data, 0


def icons() -> Iterator[Case]:
    """Yields icons."""
    sizes = [(16, 16), (48, 48), (32, 32)]
    for kind in ("bmp", "png"):
        for mode in ("RGB", "RGBA"):
            data = saved(test_image(64, 64, mode), "ICO", sizes=sizes, bitmap_format=kind)
            yield f"ico-{kind}-{mode}", data, 0
    parts = []
    for bits in (8, 4, 24, 1):
        image = test_image(20, 20)
        if bits < 24:
            image = image.quantize(1 << bits)
        bitmap = saved(image, "BMP")[14:]
        if bits == 4:
            # Pillow cannot write 4 bits: the header, 16 colours and rows of 12 bytes.
            values = np.array(image).reshape(20, 20) % 16
            rows = b"".join(packed(row[None, :, None], 4).ljust(12, b"\0") for row in values[::-1])
            colors_4 = b"".join(bytes([i * 16, 255 - i * 9, i * 3, 0]) for i in range(16))
            bitmap = struct.pack("<LLLHHLLLLLL", 40, 20, 20, 1, 4, 0, len(rows), 0, 0, 16, 0)
            bitmap += colors_4 + rows
        bitmap = bitmap[:8] + struct.pack("<L", 40) + bitmap[12:]
        parts.append((bits, bitmap + bytes(80)))
    for bits, part in parts:
        yield f"ico-{bits}", ico([(20, bits, part)]), 0
    yield "ico-depths", ico([(20, bits, part) for bits, part in parts]), 0
    yield "ico-no-depths", ico([(20, 0, part) for _, part in parts]), 0


def ico(entries: list[tuple[int, int, bytes]]) -> bytes:
    """Returns an icon of several images, each given by edge, bits and data."""
    data = struct.pack("<HHH", 0, 1, len(entries))
    offset = 6 + 16 * len(entries)
    for edge, bits, part in entries:
        data += struct.pack("<BBBBHHLL", edge, edge, 0, 0, 1, bits, len(part), offset)
        offset += len(part)
    return data + b"".join(part for _, _, part in entries)


def others() -> Iterator[Case]:
    """Yields further kinds of PNG, WebP, BMP and AVIF."""
    for mode in ("L", "LA", "RGB", "RGBA"):
        yield f"png-{mode}", saved(test_image(mode=mode), "PNG"), 0
        yield f"webp-{mode}", saved(test_image(mode=mode), "WEBP", lossless=True, exact=True), 0
        if mode != "LA":
            yield f"bmp-{mode}", saved(test_image(mode=mode), "BMP"), 0
    yield "png-palette", saved(test_image().quantize(7), "PNG", transparency=2), 0
    yield "png-1", saved(test_image().convert("1"), "PNG"), 0
    yield "bmp-1", saved(test_image().convert("1"), "BMP"), 0
    yield "bmp-palette", saved(test_image().quantize(200), "BMP"), 0
    yield "webp-lossy", saved(test_image(64, 48), "WEBP", quality=70), 0
    for value in (1, 6, 7):
        turned = Image.Exif()
        turned[ORIENTATION] = value
        options = {"quality": 100, "subsampling": "4:4:4", "exif": turned}
        yield f"avif-{value}", saved(test_image(64, 48), "AVIF", **options), 6
    generator = np.random.default_rng(9)
    for color, n in ((2, 3), (4, 2), (6, 4)):
        rows = generator.integers(0, 1 << 16, (4, 5 * n)).astype(">u2")
        data = b"".join(b"\0" + row.tobytes() for row in rows)
        header = struct.pack(">LLBBBBB", 5, 4, 16, color, 0, 0, 0)
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
        yield f"png-16-{n}", b"\x89PNG\r\n\x1a\n" + parts, 0


def main(path: Path) -> None:
    """Writes the table."""
    rows = []
    for cases in (orientations, tiffs, animations, pnm, icons, others):
        for name, data, tolerance in cases():
            try:
                image = expected(data)
            except Exception as error:  # noqa: BLE001 - cases that Pillow cannot read are skipped
                print(f"skipped: {name}: {error}", file=sys.stderr)
                continue
            rows.append((name, data, *image.size, image.tobytes(), tolerance))
    for name, data, levels in scaled():
        grey = np.floor(levels + 0.5).astype(np.uint8)
        pixels = np.repeat(grey[..., None], 3, axis=-1)
        rows.append((name, data, grey.shape[1], grey.shape[0], pixels.tobytes(), 0))
    names = ["id", "image", "width", "height", "rgb", "tolerance"]
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    pq.write_table(table, path, compression="zstd", compression_level=19)
    print(f"{len(rows)} images", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
