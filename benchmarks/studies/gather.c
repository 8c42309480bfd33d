// Sums of random 64-byte lines of a table, weighted, eight lines to a sum: what gather_limit.py
// compiles for this very processor and times. A line is 16 floats. An offset counts lines. The sum
// of the lines i to i + 7 is written to out[2 i], so out holds 2 floats for each line that is read.

typedef float line __attribute__((vector_size(64), aligned(64)));

void gather(const float *table, const int *offset, const float *weight, long count, float *out) {
  for (long i = 0; i < count; i += 8) {
    line total = {0};
    for (long j = i; j < i + 8; ++j) total += weight[j] * *(const line *)(table + 16l * offset[j]);
    *(line *)(out + 2 * i) = total;
  }
}
