"""Internet checksum and CRC32c, each while copying; declarations of inet_checksum.h."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "inet_checksum.h" nogil:
    # Copies n bytes, loading each once, and returns `sum` plus their 16-bit words.
    uint64_t inet_copy_sum(uint8_t *to, const uint8_t *source, size_t n, uint64_t sum)
    uint64_t inet_sum(const uint8_t *source, size_t n, uint64_t sum)
    uint16_t inet_fold(uint64_t sum)
    # The sum of a piece that starts at an odd offset.
    uint64_t inet_odd(uint64_t sum)
    # Copies n bytes and returns the CRC32c continued over them; starts at 0xffffffff, ends complemented.
    uint32_t crc32c_copy(uint8_t *to, const uint8_t *source, size_t n, uint32_t crc)
