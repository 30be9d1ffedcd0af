"""What a file with torch's suffixes is when it is no zip: told from its first bytes, and never read further."""

from __future__ import annotations

from typing import Final

from ckptfmt.containers.protocol import ByteSource

# torch before 1.6 begins with its magic number pickled; source: MAGIC_NUMBER in torch/serialization.py.
_TORCH_BEFORE_ZIP: Final = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_TAR_MAGIC: Final = b"ustar"
_TAR_MAGIC_AT: Final = 257
_HEAD_BYTES: Final = 512


def why_not_zip(source: ByteSource) -> str:
    """The reason why a file named like torch's, but without a zip's first bytes, is kept whole."""
    head = source.read(0, min(source.size, _HEAD_BYTES))
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file it stands for"
    if head[:1] == b"\x80" and head[2:].startswith(_TORCH_BEFORE_ZIP):
        return "the file format of torch before 1.6 (save it again to have its tensors stored one by one)"
    if head[:1] == b"\x80":
        return "a bare pickle"
    if head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return "a tar file, as torch before 0.1.10 wrote them"
    return "no file format of torch's"
