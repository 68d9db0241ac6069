/* Code made at run time, with a frame pointer and without CFI, between functions that have CFI
 * and no frame pointer: outer -> made code -> inner. With "leaf", the made code itself is busy. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define noinline __attribute__((noinline, noclone))

static volatile uint64_t sink;

noinline void inner(void)
{
	for (int i = 0; i < 1000000; i++)
		sink = sink * 3 + i;
	sink++;
}

noinline void outer(void (*made)(void (*)(void)))
{
	volatile uint64_t block[5];
	block[2] = 1;
	made(inner);
	sink += block[2];
}

int main(int argc, char **argv)
{
	/* push %rbp; mov %rsp,%rbp; call *%rdi; pop %rbp; ret */
	static const uint8_t calls[] = { 0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3 };
	/* push %rbp; mov %rsp,%rbp; mov $100000000,%ecx; 1: dec %ecx; jnz 1b; pop %rbp; ret */
	static const uint8_t leaf[] = { 0x55, 0x48, 0x89, 0xe5, 0xb9, 0x00, 0xe1, 0xf5, 0x05,
					0xff, 0xc9, 0x75, 0xfc, 0x5d, 0xc3 };
	void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (code == MAP_FAILED)
		return 1;
	if (argc > 1 && !strcmp(argv[1], "leaf"))
		memcpy(code, leaf, sizeof(leaf));
	else
		memcpy(code, calls, sizeof(calls));
	puts("ready");
	fflush(stdout);
	for (;;)
		outer((void (*)(void (*)(void)))(uintptr_t)code);
}
