// The shared object that dlopen.c loads.
#include "truth.h"

static NOINLINE void plugin_inner(void) { spin(2); }

NOINLINE void plugin_work(void) {
	plugin_inner();
	__asm__ volatile(""); // no tail call: plugin_work stays in the chain
}
