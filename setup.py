"""Builds the engine, and names the programs.

Every module of vhost_user.engine that has a .pxd beside it is compiled with Cython. Every device type, each
file NAME_type.py of vhost_user.devices, has a program vhost-user-NAME.
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

ENGINE = Path("src/vhost_user/engine")
DEVICES = Path("src/vhost_user/devices")
WITH_LIBURING = {"file_fast_path"}

# VHOST_USER_SANITIZE=address,undefined builds the engine for the sanitizer run; never set for users.
sanitize = os.environ.get("VHOST_USER_SANITIZE", "")
compile_args = ["-O3", "-fno-plt", "-g", "-std=gnu11", "-Wall", "-Wno-unused-function"]
compile_args += ["-fno-strict-aliasing"]
link_args: list[str] = []
if sanitize:
    compile_args += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-O1"]
    link_args += [f"-fsanitize={sanitize}"]

# For tools/warnings, never for users, whose Cython may warn of more: the C is made anew in this folder, and a
# warning is an error.
strict = os.environ.get("VHOST_USER_CYTHON_STRICT")
if strict:
    Options.warning_errors = True

# io_uring is optional: without liburing's headers the file fast path uses preadv and pwritev.
liburing = Path("/usr/include/liburing.h").exists() and not os.environ.get("VHOST_USER_NO_LIBURING")

modules = sorted(
    path for path in ENGINE.rglob("*.py") if path.with_suffix(".pxd").exists() and path.stem != "__init__"
)
extensions = [
    Extension(
        ".".join(path.relative_to("src").with_suffix("").parts),
        [str(path)],
        include_dirs=[str(ENGINE)],
        depends=[str(header) for header in sorted(ENGINE.rglob("*.h"))],
        define_macros=[("VHOST_USER_HAVE_LIBURING", "1")] if liburing and path.stem in WITH_LIBURING else [],
        libraries=["uring"] if liburing and path.stem in WITH_LIBURING else [],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for path in modules
]

types = sorted(path.stem.removesuffix("_type") for path in DEVICES.glob("*_type.py"))

setup(
    entry_points={
        "console_scripts": [
            "vhost-user = vhost_user.cli:main",
            *(f"vhost-user-{name} = vhost_user.cli:main_{name}" for name in types),
        ],
        "pytest11": ["vhost-user = vhost_user.testing.plugin"],
    },
    ext_modules=cythonize(  # type: ignore[no-untyped-call]  # Cython has no types
        extensions,
        build_dir=strict,
        force=bool(strict),
        include_path=["src"],
        language_level=3,
        compiler_directives={
            # Methods as CPython's own: its interpreter has a shorter way to call those.
            "binding": False,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            # For help() and inspect.signature(): signatures as CPython's own C types have them.
            "embedsignature": True,
            "embedsignature.format": "clinic",
            "autotestdict": False,
            "freethreading_compatible": True,
            "warn.undeclared": False,
        },
    ),
)
