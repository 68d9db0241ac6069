// Loads a shared object (argv[2]) after a third of its run and calls its plugin_work from then on.
#include "truth.h"
#include <dlfcn.h>

static struct truth truths[] = {{"host_work", 0}, {"plugin_work", 0}};

NOINLINE void host_work(void) { spin(2); }

NOINLINE void call_plugin(void (*plugin_work)(void)) { TIMED(truths[1].cpu_ns, plugin_work()); }

int main(int argc, char **argv) {
	uint64_t start_ns = wall_ns();
	uint64_t end_ns = deadline_ns(argc, argv);
	while (wall_ns() < start_ns + (end_ns - start_ns) / 3)
		TIMED(truths[0].cpu_ns, host_work());
	void *library = argc > 2 ? dlopen(argv[2], RTLD_NOW) : NULL;
	void (*plugin_work)(void) = library ? (void (*)(void))dlsym(library, "plugin_work") : NULL;
	if (!plugin_work) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	while (wall_ns() < end_ns)
		call_plugin(plugin_work);
	print_truth(truths, 2);
	return 0;
}
