/*
 * Memory that a server is loaded with, by LD_PRELOAD: 1 GiB, of which each page has been written to.
 *
 * Only the server gets it: the variable is gone before its main function begins, and with it from the programs that it starts.
 */

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096 };
static const size_t SIZE = (size_t)1 << 30;

__attribute__((constructor)) static void load(void)
{
	char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	unsetenv("LD_PRELOAD");
	if (memory == MAP_FAILED) {
		perror("mmap of the ballast");
		exit(1);
	}
	/* As memory that has grown bit by bit: a page has its own entry in the tables that fork(2) copies. */
	madvise(memory, SIZE, MADV_NOHUGEPAGE);
	for (size_t offset = 0; offset < SIZE; offset += PAGE)
		memory[offset] = 1;
}
