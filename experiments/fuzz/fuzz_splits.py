"""Do the parsers survive every split list, class list and CSV file? See `harness` for how to run it."""

import os

import atheris
from absl import logging

with atheris.instrument_imports(include=["tce_tf"]):
    from tce_tf.data import layouts, splits

from experiments.fuzz import harness
from tce_tf import errors

_FOLDER = harness.fast_folder()
_CLIPS = [layouts.Clip(name, name) for name in ("A/v_A_g01_c01", "B/v_B_g01_c01", "wave/x")]
_LISTING = layouts.Listing(_CLIPS, [], "ucf101")
_FILES = {
    b"u": ("classInd.txt", "trainlist01.txt", "testlist01.txt"),
    b"h": ("wave_test_split1.txt",),
    b"c": ("clips.csv",),
}


def test_one(data: bytes) -> None:
    """Reads UCF101's lists, HMDB51's or a CSV file, told apart by the first byte."""
    names = _FILES.get(data[:1], ())
    folder = os.path.join(_FOLDER, data[:1].hex())
    os.makedirs(folder, exist_ok=True)
    for name, content in zip(names, data[1:].split(b"\0", len(names) - 1), strict=False):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
    try:
        if data[:1] == b"c":
            listing = layouts.list_clips(os.path.join(folder, "clips.csv"))
            layouts.class_names(listing.clips, listing.layout)
        elif names:
            lists = splits.read_lists(folder, 1)
            if lists.entries is not None:
                splits.select(_LISTING, lists, "all")
    except errors.UserError:
        pass


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    os.makedirs(os.path.join(_FOLDER, b"c".hex()))
    for clip in ("a.mp4", "b.mp4"):
        with open(os.path.join(_FOLDER, b"c".hex(), clip), "wb") as video:
            video.write(b"x")
    harness.run(
        test_one,
        [
            b"u1 A\n2 B\n\0A/v_A_g01_c01.avi 1\n\0B/v_B_g01_c01.avi 2\n",
            b"u\xef\xbb\xbf1 A\r\n2 B\r\n\0A/v_A_g01_c01.avi 1\r\n\0B/v_B_g01_c01.avi\r\n",
            b"hx.avi 1\ny.avi 2\nz.avi 0\n",
            b"cpath,label,group\na.mp4,wave,1\nb.mp4,run,2\n",
            b"ca.mp4,3\r\nb.mp4,7\r\n",
            b'c"a.mp4","x, y"\n/tmp/b.mp4,\n../b.mp4,z\n',
        ],
    )
