"""Artefacts: a file, the manifest beside it, and the rules by which either is believed.

`resnet50.onnx` has its manifest in `resnet50.onnx.json`. An artefact is made in a staging folder beside
its final place, verified there, flushed, and renamed; the manifest is renamed last. So a reader sees the
old artefact, the new one, or none, and a manifest whose hash matches its file means that the file was
verified. Formats that run code when they are loaded carry a signature made with a key of this user on
this machine; a program without a valid signature is refused unless the user says `--trust`.
"""

from __future__ import annotations

from bbx.artifact.hashing import fingerprint_of, sha256_of, source_digest, tool_versions
from bbx.artifact.keys import sign, state_folder
from bbx.artifact.manifest import (
    PROGRAMS,
    SUFFIXES,
    ExternalData,
    Manifest,
    WeightsFile,
    WeightsOrigin,
    is_intact,
    make_manifest,
    manifest_path,
    read_manifest,
    reusable,
    specs_to_json,
)
from bbx.artifact.onnx_files import check_external_data, checked_graph
from bbx.artifact.staging import commit, disk_errors, locked, out_path, staged, staging_folders, write_whole
from bbx.artifact.trust import require_trust

__all__ = [
    "PROGRAMS",
    "SUFFIXES",
    "ExternalData",
    "Manifest",
    "WeightsFile",
    "WeightsOrigin",
    "check_external_data",
    "checked_graph",
    "commit",
    "disk_errors",
    "fingerprint_of",
    "is_intact",
    "locked",
    "make_manifest",
    "manifest_path",
    "out_path",
    "read_manifest",
    "require_trust",
    "reusable",
    "sha256_of",
    "sign",
    "source_digest",
    "specs_to_json",
    "staged",
    "staging_folders",
    "state_folder",
    "tool_versions",
    "write_whole",
]
