// C++ names: namespaces, templates, and functions inlined into their caller.
#include "truth.h"

namespace physics {

namespace detail {
// Inlined into every caller; only DWARF knows that it was here.
ALWAYS_INLINE void square_units(uint64_t units) { spin(units * units); }
} // namespace detail

template <typename Scalar> struct Integrator {
	NOINLINE void step(int units) {
		detail::square_units(static_cast<uint64_t>(units));
		__asm__ volatile("" : : "r"(this) : "memory");
	}
	Scalar state{};
};

template <typename Scalar> NOINLINE uint64_t simulate(int units) {
	Integrator<Scalar> integrator;
	uint64_t cpu_ns = 0;
	TIMED(cpu_ns, integrator.step(units));
	return cpu_ns;
}

} // namespace physics

int main(int argc, char **argv) {
	uint64_t end_ns = deadline_ns(argc, argv);
	truth truths[] = {{"physics::Integrator<float>::step", 0},
			  {"physics::Integrator<double>::step", 0}};
	while (wall_ns() < end_ns) {
		truths[0].cpu_ns += physics::simulate<float>(1);
		truths[1].cpu_ns += physics::simulate<double>(2);
	}
	print_truth(truths, 2);
}
