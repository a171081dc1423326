// What the tests ask of the shim itself, as functions that return text.
#include "scalar.cuh"

namespace {

using namespace ntensor::cuda;

struct Nothing {
    float* out;
};

void left_alone_at_a_barrier(const Nothing) {
    if (threadIdx.x != 3) __syncthreads();
}
void block_and_warp(const Nothing) {
    if (threadIdx.x < 32) {
        exchange_lanes(1.0f, 1);
    } else {
        __syncthreads();
    }
}
void copies_not_awaited(const Nothing in) {
    NTENSOR_DYNAMIC_SHARED(float, shared);
    copy_async<4>(shared_address(shared + threadIdx.x), in.out, true);
    commit_copies();
}
void copy_not_aligned(const Nothing in) {
    NTENSOR_DYNAMIC_SHARED(float, shared);
    copy_async<16>(shared_address(shared), in.out + 1, true);
}
void before_and_after_a_copy(const Nothing in) {
    NTENSOR_DYNAMIC_SHARED(float, shared);
    copy_async<4>(shared_address(shared + threadIdx.x), in.out, true);
    commit_copies();
    const float before = shared[threadIdx.x];
    wait_for_copies<0>();
    __syncthreads();
    if (threadIdx.x == 0) in.out[0] = before != before ? shared[1] : 0;
}

std::string outcome(void (*kernel)(Nothing), float* out) {
    const Call call;
    Session session(call, false);
    try {
        session.launch({1, 64, 256}, Nothing{out}, "check", kernel);
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "done";
}

const char* kept(const std::string& text) {
    static std::string memory;
    memory = text;
    return memory.c_str();
}

}  // namespace

// Each kernel launched so far and how often, a line each.
extern "C" const char* ntensor_shim_launched() {
    std::string text;
    for (const auto& [name, count] : shim::launched())
        text += name + " " + std::to_string(count) + "\n";
    return kept(text);
}

// From now on launches are noted instead of made, or made again; returns what was noted until now.
extern "C" const char* ntensor_shim_record(bool on) {
    std::string text;
    for (const shim::Record& row : shim::records().rows)
        text += shim::name_of(row.kernel) + " " + std::to_string(row.blocks) + " " +
                std::to_string(row.threads) + " " + std::to_string(row.shared_bytes) + "\n";
    shim::records() = {on, {}};
    return kept(text);
}

extern "C" void ntensor_shim_set_resident(const char* kernel, int blocks) {
    shim::resident()[kernel] = blocks;
}
extern "C" void ntensor_shim_forget_resident() {
    shim::resident().clear();
}

// The indices outer * d + inner of all that are listed, taken apart; those that come out otherwise.
extern "C" const char* ntensor_shim_splits(const int64_t* extents, const int64_t* outers,
                                           int count) {
    std::string text;
    for (int at = 0; at < count; ++at) {
        const int64_t d = extents[at], outer = outers[at], first = outer * d;
        for (const int64_t inner : {int64_t{0}, d / 2, d - 1}) {
            const IndexPair found = Divider(d, first + d).split(first + inner);
            if (found.outer != outer || found.inner != inner)
                text += std::to_string(first + inner) + " by " + std::to_string(d) + "\n";
        }
    }
    return kept(text);
}

// How kernels end that break a rule, a line each; the last one breaks none.
extern "C" const char* ntensor_shim_outcomes() {
    alignas(16) float memory[8] = {7};
    std::string text;
    for (auto* kernel : {left_alone_at_a_barrier, block_and_warp, copies_not_awaited,
                         copy_not_aligned, before_and_after_a_copy})
        text += outcome(kernel, memory) + "\n";
    return kept(text + (memory[0] == 7 ? "copied" : "not copied"));
}
