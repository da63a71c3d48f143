"""The list of compiled modules and their directives; nothing else.

VWIRE_SANITIZE=1 builds them with the address and undefined-behaviour sanitizers, VWIRE_SANITIZE=thread
with the thread sanitizer; VWIRE_NO_CORE=1 leaves them out, for an editable install whose core
`make build` compiles in place.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path("src_ext")
SANITIZE = {"": "", "1": "address,undefined", "thread": "thread"}[os.environ.get("VWIRE_SANITIZE", "")]
NO_CORE = os.environ.get("VWIRE_NO_CORE") == "1"

WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wno-sign-conversion",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
]
COMPILE = ["-std=gnu11", "-O3", "-fno-strict-aliasing", "-fno-plt", *WARNINGS]
LINK: list[str] = []
if SANITIZE:
    COMPILE += ["-O1", "-g", f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    LINK += [f"-fsanitize={SANITIZE}"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    "embedsignature.format": "python",
    "auto_pickle": False,
    "freethreading_compatible": False,
}


def extension(path: Path) -> Extension:
    """Describes one .pyx; its dotted name is its path below src_ext."""
    return Extension(
        ".".join(path.relative_to(ROOT).with_suffix("").parts),
        [str(path)],
        include_dirs=[str(ROOT / "include")],
        depends=[str(header) for header in sorted(ROOT.rglob("*.h"))],
        extra_compile_args=COMPILE,
        extra_link_args=LINK,
    )


setup(
    ext_modules=cythonize(
        [extension(path) for path in sorted(ROOT.rglob("*.pyx")) if not NO_CORE],
        include_path=[str(ROOT)],
        build_dir="build/cython",
        compiler_directives=DIRECTIVES,
    )
)
