#include "parallel.h"

#ifdef NTENSOR_OPENMP
#include <omp.h>
#else
#include <system_error>
#include <thread>
#include <vector>
#endif

namespace ntensor {

#ifdef NTENSOR_OPENMP

void parallel(int threads, void (*body)(void*, int), void* context) {
    if (threads <= 1) {
        body(context, 0);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        // A runtime may grant fewer threads than asked for.
        for (int t = omp_get_thread_num(); t < threads; t += omp_get_num_threads())
            body(context, t);
    }
}

#else

void parallel(int threads, void (*body)(void*, int), void* context) {
    std::vector<std::thread> workers;
    int started = 1;
    try {
        workers.reserve(threads > 1 ? threads - 1 : 0);
        for (; started < threads; ++started) workers.emplace_back(body, context, started);
    } catch (const std::system_error&) {
        // No more threads to be had: the caller's thread takes the rest.
    }
    body(context, 0);
    for (int t = started; t < threads; ++t) body(context, t);
    for (std::thread& worker : workers) worker.join();
}

#endif

}  // namespace ntensor
