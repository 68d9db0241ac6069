// A function whose last instruction is a system call, and what follows it: while the kernel works,
// the program's address is the next function's.
#include <stdio.h>

__asm__(".globl yields\n"
	".type yields, @function\n"
	"yields:\n"
	".cfi_startproc\n"
	"sub $24, %rsp\n"
	".cfi_adjust_cfa_offset 24\n"
	"mov $24, %eax\n"
	"syscall\n"
	".cfi_endproc\n"
	".size yields, . - yields\n"
	".globl follows\n"
	".type follows, @function\n"
	"follows:\n"
	".cfi_startproc\n"
	".cfi_def_cfa_offset 32\n"
	"add $24, %rsp\n"
	".cfi_def_cfa_offset 8\n"
	"ret\n"
	".cfi_endproc\n"
	".size follows, . - follows\n");

void yields(void);

int main(void) {
	puts("ready");
	fflush(stdout);
	for (;;)
		yields();
}
