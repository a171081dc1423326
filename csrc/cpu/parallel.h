#pragma once

namespace ntensor {

// Calls body(context, t) once for each t in [0, threads), at the same time where threads are to be
// had. Which thread runs which t never changes a result: work is divided by t alone.
void parallel(int threads, void (*body)(void* context, int t), void* context);

template <class Body>
inline void parallel_for_threads(int threads, const Body& body) {
    parallel(
        threads, [](void* context, int t) { (*static_cast<const Body*>(context))(t); },
        const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace ntensor
