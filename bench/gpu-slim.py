"""Keeps the kernels of one GPU architecture in a CUDA library, so that it travels in a quarter of its size.

    python3 bench/gpu-slim.py libonnxruntime_providers_cuda.so 90 slim.so

Kernels lie in fat binaries, one image an architecture; the images of the others are zeroed, which compresses to nothing. The
driver reads only the image of its own GPU, so nothing else changes. 90: H100, H200; 80: A100; 89: L4, L40, RTX 4090.
"""
import struct
import sys

MAGIC = b'\x50\xed\x55\xba'
HEADER = struct.Struct('<IHHQ')  # magic, version, bytes of this header, bytes that follow
IMAGE = struct.Struct('<HHIQ')  # kind (2: machine code), version, bytes of this header, bytes that follow
ARCHITECTURE = 28  # where an image's header says it, as 32 bits


def slimmed(library, architecture):
    """(The library, bytes that were zeroed, images that were kept)."""
    data, at, zeroed, kept = bytearray(library), 0, 0, 0
    while (at := data.find(MAGIC, at)) >= 0:
        _, version, header, size = HEADER.unpack_from(data, at)
        if version != 1 or header != HEADER.size or at + header + size > len(data):
            at += len(MAGIC)
            continue
        image, end = at + header, at + header + size
        while image < end:
            _, _, own, payload = IMAGE.unpack_from(data, image)
            if struct.unpack_from('<I', data, image + ARCHITECTURE)[0] == architecture:
                kept += 1
            else:
                data[image + own:image + own + payload] = bytes(payload)
                zeroed += payload
            image += own + payload
        at = end
    return bytes(data), zeroed, kept


def main():
    source, architecture, target = sys.argv[1:]
    data, zeroed, kept = slimmed(open(source, 'rb').read(), int(architecture))
    if not kept:
        sys.exit(f'{source} has no kernels of sm_{architecture}')
    open(target, 'wb').write(data)
    print(f'{target}: {kept} images of sm_{architecture} kept, {zeroed / 1e6:.0f} of {len(data) / 1e6:.0f} MB zeroed')


if __name__ == '__main__':
    main()
