"""Small files that claim, or hold, pictures of very many pixels."""

import struct
import zlib
from fractions import Fraction

import av


def png(height: int, width: int) -> bytes:
    """A black grey-scale PNG, whole and valid: a thousandth of its pixels' bytes."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    packer = zlib.compressobj(9)
    rows = b"".join([packer.compress(bytes(width + 1)) for _ in range(height)])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", rows + packer.flush()), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def claiming(file: bytes, height: int, width: int) -> bytes:
    """A JPEG or PNG whose header claims another size."""
    if file.startswith(b"\x89PNG"):
        header = file[12:16] + struct.pack(">II", width, height) + file[24:29]
        return file[:12] + header + struct.pack(">I", zlib.crc32(header)) + file[33:]
    at = file.index(b"\xff\xc0") + 5
    return file[:at] + struct.pack(">HH", height, width) + file[at + 4 :]


def video_of(path, pngs: list[bytes]) -> str:
    """A .mov whose frames are PNG files of any sizes; its own header says 64x48."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "rgb24"
        for number, content in enumerate(pngs):
            packet = av.Packet(content)
            packet.pts = packet.dts = number
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 10), stream, True
            container.mux(packet)
    return str(path)
