/* import_bytes.h: checkpoints of other tools that lie in memory, for suites that make them wrong. */
#ifndef TESTS_IMPORT_BYTES_H
#define TESTS_IMPORT_BYTES_H

#include "import/table.h"

/* Read, as a file called "file": a table whose tensors lie within it (table_free), or NULL with st set. */
tensor_table *table_of_bytes(const void *bytes, size_t count, status *st);
void table_refused(const void *bytes, size_t count, const char *word); /* as a bad file, in a sentence that holds the word */
size_t little(uint8_t *p, uint64_t n, int bytes); /* little-endian; returns bytes */

#endif
