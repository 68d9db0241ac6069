/* Calls through the procedure linkage table, as often as can be. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define noinline __attribute__((noinline, noclone))

static volatile long sink;

noinline void caller(void)
{
	for (int i = 0; i < 1000000; i++)
		sink += labs(sink) + atoi("7");
}

int main(void)
{
	puts("ready");
	fflush(stdout);
	for (;;)
		caller();
}
