"""Generates the message classes and service stubs from the .proto files beside it.

    python -m forwarder.api.generate [directory]

Messages go to `api/`, service stubs to `rpc/`, both below `directory` (the package's own by
default). Needs the development dependencies grpcio-tools and mypy-protobuf.

protoc runs with this directory as its include path, so that the files register under the bare
names that the API uses (`connection.proto`); the import lines it writes for those bare names
are rewritten to name the package.
"""

import re
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

PROTO_DIRECTORY = Path(__file__).parent
PACKAGE = "forwarder.api"


def generate(directory: Path) -> list[Path]:
    """Writes all generated modules below `directory` and returns their paths.

    Raises RuntimeError with protoc's exit status when it fails; protoc prints why to stderr.
    """
    from grpc_tools import protoc  # noqa: PLC0415 - a development dependency

    protos = sorted(PROTO_DIRECTORY.glob("*.proto"))
    plugins = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as temporary:
        arguments = [
            "protoc",
            f"--proto_path={PROTO_DIRECTORY}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--python_out={temporary}",
            f"--mypy_out=quiet:{temporary}",
            f"--grpc_python_out={temporary}",
            f"--mypy_grpc_out=quiet:{temporary}",
            *(proto.name for proto in protos),
        ]
        status = protoc.main(arguments)
        if status != 0:
            raise RuntimeError(f"protoc on {', '.join(proto.name for proto in protos)} ended with status {status}")
        names = [proto.stem for proto in protos]
        written = []
        for module in sorted(Path(temporary).iterdir()):
            is_stub = "_pb2_grpc." in module.name
            text = name_package(module.read_text(), names)
            if is_stub and "Stub" not in text:
                continue  # a file without services
            target = directory / ("rpc" if is_stub else "api") / module.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            written.append(target)
    return written


def name_package(text: str, names: list[str]) -> str:
    """Rewrites the bare module names of `names` in generated code to names in the package."""
    stems = "|".join(re.escape(name) for name in names)
    text = re.sub(rf"^import (({stems})_pb2\b)", rf"from {PACKAGE} import \1", text, flags=re.MULTILINE)
    return re.sub(rf"(DESCRIPTOR, ')(({stems})_pb2')", rf"\1{PACKAGE}.\2", text)


if __name__ == "__main__":
    for path in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else PROTO_DIRECTORY.parent):
        print(path)
