/* Copying and summing in one pass: the Internet checksum (RFC 1071) and CRC32c
 * (RFC 9260, appendix A), with the widest instructions the processor has.
 *
 * The source may be memory that another process changes meanwhile: each byte is
 * loaded once, and what is stored is what is summed. Sums are in the byte order
 * of the machine, unfolded in 64 bits: 4 GiB of 32-bit words fit.
 */
#ifndef VWIRE_INET_CHECKSUM_H
#define VWIRE_INET_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The tail shorter than a word, padded by a zero byte as RFC 1071 says. */
static inline uint64_t inet_copy_sum_tail(uint8_t *to, const uint8_t *from, size_t n, uint64_t sum)
{
    while (n >= 4) {
        uint32_t word;
        memcpy(&word, from, 4);
        __asm__("" : "+r"(word));   /* one load, not two */
        memcpy(to, &word, 4);
        sum += word;
        from += 4, to += 4, n -= 4;
    }
    if (n >= 2) {
        uint16_t half;
        memcpy(&half, from, 2);
        __asm__("" : "+r"(half));
        memcpy(to, &half, 2);
        sum += half;
        from += 2, to += 2, n -= 2;
    }
    if (n) {
        uint8_t last[2] = {*(const volatile uint8_t *)from, 0};
        uint16_t half;
        memcpy(&half, last, 2);
        *to = last[0];
        sum += half;
    }
    return sum;
}

static uint64_t inet_copy_sum_words(uint8_t *to, const uint8_t *from, size_t n, uint64_t sum)
{
    uint64_t other = 0;
    while (n >= 16) {
        uint64_t a, b;
        memcpy(&a, from, 8);
        memcpy(&b, from + 8, 8);
        __asm__("" : "+r"(a), "+r"(b));
        memcpy(to, &a, 8);
        memcpy(to + 8, &b, 8);
        sum += (uint32_t)a;
        other += a >> 32;
        sum += (uint32_t)b;
        other += b >> 32;
        from += 16, to += 16, n -= 16;
    }
    return inet_copy_sum_tail(to, from, n, sum + other);
}

#if defined(__x86_64__)
__attribute__((target("avx2")))
static uint64_t inet_copy_sum_avx2(uint8_t *to, const uint8_t *from, size_t n, uint64_t sum)
{
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    __m256i even = _mm256_setzero_si256(), odd = even;
    while (n >= 64) {
        __m256i a = _mm256_loadu_si256((const __m256i *)from);
        __m256i b = _mm256_loadu_si256((const __m256i *)(from + 32));
        __asm__("" : "+x"(a), "+x"(b));
        _mm256_storeu_si256((__m256i *)to, a);
        _mm256_storeu_si256((__m256i *)(to + 32), b);
        even = _mm256_add_epi64(even, _mm256_and_si256(a, low));
        odd = _mm256_add_epi64(odd, _mm256_srli_epi64(a, 32));
        even = _mm256_add_epi64(even, _mm256_and_si256(b, low));
        odd = _mm256_add_epi64(odd, _mm256_srli_epi64(b, 32));
        from += 64, to += 64, n -= 64;
    }
    even = _mm256_add_epi64(even, odd);
    uint64_t lanes[4];
    _mm256_storeu_si256((__m256i *)lanes, even);
    sum += lanes[0] + lanes[1] + lanes[2] + lanes[3];
    return inet_copy_sum_words(to, from, n, sum);
}
#endif

/* Copies n bytes and returns sum plus theirs, as 16-bit words from the first byte on. */
static inline uint64_t inet_copy_sum(uint8_t *to, const uint8_t *from, size_t n, uint64_t sum)
{
#if defined(__x86_64__)
    if (n >= 64 && __builtin_cpu_supports("avx2"))
        return inet_copy_sum_avx2(to, from, n, sum);
#endif
    return inet_copy_sum_words(to, from, n, sum);
}

static inline uint64_t inet_sum_words(const uint8_t *from, size_t n, uint64_t sum)
{
    while (n >= 4) {
        uint32_t word;
        memcpy(&word, from, 4);
        sum += word;
        from += 4, n -= 4;
    }
    if (n >= 2) {
        uint16_t half;
        memcpy(&half, from, 2);
        sum += half;
        from += 2, n -= 2;
    }
    if (n) {
        uint8_t last[2] = {*from, 0};
        uint16_t half;
        memcpy(&half, last, 2);
        sum += half;
    }
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx2")))
static uint64_t inet_sum_avx2(const uint8_t *from, size_t n, uint64_t sum)
{
    const __m256i low = _mm256_set1_epi64x(0xffffffff);
    __m256i even = _mm256_setzero_si256(), odd = even;
    for (; n >= 32; from += 32, n -= 32) {
        __m256i a = _mm256_loadu_si256((const __m256i *)from);
        even = _mm256_add_epi64(even, _mm256_and_si256(a, low));
        odd = _mm256_add_epi64(odd, _mm256_srli_epi64(a, 32));
    }
    even = _mm256_add_epi64(even, odd);
    uint64_t lanes[4];
    _mm256_storeu_si256((__m256i *)lanes, even);
    return inet_sum_words(from, n, sum + lanes[0] + lanes[1] + lanes[2] + lanes[3]);
}
#endif

/* Returns sum plus the 16-bit words of n bytes. */
static inline uint64_t inet_sum(const uint8_t *from, size_t n, uint64_t sum)
{
#if defined(__x86_64__)
    if (n >= 64 && __builtin_cpu_supports("avx2"))
        return inet_sum_avx2(from, n, sum);
#endif
    return inet_sum_words(from, n, sum);
}

static inline uint16_t inet_fold(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}

/* A piece that starts at an odd offset adds its sum with the bytes exchanged. */
static inline uint64_t inet_odd(uint64_t sum)
{
    return __builtin_bswap16(inet_fold(sum));
}

/* CRC32c, reflected, without the final complement. */
static uint32_t crc32c_copy_bytes(uint8_t *to, const uint8_t *from, size_t n, uint32_t crc)
{
    /* One lookup per half byte: a table of 64 bytes is soon in the cache, and
     * SCTP on a processor without the instruction is rare. */
    uint32_t table[16];
    for (uint32_t i = 0; i < 16; i++) {
        uint32_t entry = i;
        for (int bit = 0; bit < 4; bit++)
            entry = (entry >> 1) ^ (0x82f63b78u & (0u - (entry & 1)));
        table[i] = entry;
    }
    while (n--) {
        uint8_t byte = *(const volatile uint8_t *)from++;
        *to++ = byte;
        crc ^= byte;
        crc = (crc >> 4) ^ table[crc & 15];
        crc = (crc >> 4) ^ table[crc & 15];
    }
    return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2")))
static uint32_t crc32c_copy_sse42(uint8_t *to, const uint8_t *from, size_t n, uint32_t crc)
{
    uint64_t wide = crc;
    while (n >= 8) {
        uint64_t word;
        memcpy(&word, from, 8);
        __asm__("" : "+r"(word));
        memcpy(to, &word, 8);
        wide = _mm_crc32_u64(wide, word);
        from += 8, to += 8, n -= 8;
    }
    crc = (uint32_t)wide;
    while (n--) {
        uint8_t byte = *(const volatile uint8_t *)from++;
        *to++ = byte;
        crc = _mm_crc32_u8(crc, byte);
    }
    return crc;
}
#endif

/* Copies n bytes and returns the CRC continued over them. */
static inline uint32_t crc32c_copy(uint8_t *to, const uint8_t *from, size_t n, uint32_t crc)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return crc32c_copy_sse42(to, from, n, crc);
#endif
    return crc32c_copy_bytes(to, from, n, crc);
}

#endif
