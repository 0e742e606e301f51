/* A HIP runtime without a GPU: one device whose memory is the host's and whose kernels do nothing.
 *
 * Signatures follow the HIP API reference; hipSuccess is 0. Whatever is not defined here is added
 * by build.py as a function that returns 0.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int handle; /* What every opaque handle points to. */

int hipGetDeviceCount(int *count) { *count = 1; return 0; }
int hipGetDevice(int *device) { *device = 0; return 0; }
int hipRuntimeGetVersion(int *version) { *version = 70000000; return 0; }
int hipDeviceGetAttribute(int *value, int attribute, int device) { *value = 64; return 0; }

/* hipDeviceProp_t of HIP 6 and 7: 1472 bytes. */
int hipGetDevicePropertiesR0600(char *properties, int device) {
    memset(properties, 0, 1472);
    strcpy(properties, "stand-in");
    *(size_t *)(properties + 288) = (size_t)64 << 30; /* totalGlobalMem */
    *(size_t *)(properties + 296) = 65536;            /* sharedMemPerBlock */
    *(int *)(properties + 304) = 65536;               /* regsPerBlock */
    *(int *)(properties + 308) = 64;                  /* warpSize */
    *(int *)(properties + 320) = 1024;                /* maxThreadsPerBlock */
    for (int axis = 0; axis < 3; axis++) {
        *(int *)(properties + 324 + 4 * axis) = 1024;     /* maxThreadsDim */
        *(int *)(properties + 336 + 4 * axis) = 0x7fffffff; /* maxGridSize */
    }
    *(int *)(properties + 360) = 9; /* major */
    *(int *)(properties + 364) = 4; /* minor */
    *(int *)(properties + 388) = 304; /* multiProcessorCount */
    strcpy(properties + 1160, "gfx942"); /* gcnArchName */
    return 0;
}

int hipMalloc(void **memory, size_t bytes) { *memory = calloc(1, bytes ? bytes : 1); return 0; }
int hipFree(void *memory) { free(memory); return 0; }
int hipHostMalloc(void **memory, size_t bytes, unsigned flags) { return hipMalloc(memory, bytes); }
int hipHostFree(void *memory) { free(memory); return 0; }
int hipMemGetInfo(size_t *available, size_t *total) {
    *available = *total = (size_t)64 << 30;
    return 0;
}
int hipMemcpy(void *to, const void *from, size_t bytes, int kind) {
    memmove(to, from, bytes);
    return 0;
}
int hipMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
    return hipMemcpy(to, from, bytes, kind);
}
int hipMemcpyWithStream(void *to, const void *from, size_t bytes, int kind, void *stream) {
    return hipMemcpy(to, from, bytes, kind);
}
int hipMemcpy2DAsync(char *to, size_t to_pitch, const char *from, size_t from_pitch, size_t width,
                     size_t height, int kind, void *stream) {
    for (size_t row = 0; row < height; row++)
        memmove(to + row * to_pitch, from + row * from_pitch, width);
    return 0;
}
int hipMemset(void *memory, int value, size_t bytes) { memset(memory, value, bytes); return 0; }
int hipMemsetAsync(void *memory, int value, size_t bytes, void *stream) {
    return hipMemset(memory, value, bytes);
}

int hipStreamCreateWithFlags(void **stream, unsigned flags) { *stream = &handle; return 0; }
int hipEventCreate(void **event) { *event = &handle; return 0; }
int hipEventCreateWithFlags(void **event, unsigned flags) { *event = &handle; return 0; }
int hipEventElapsedTime(float *ms, void *start, void *stop) { *ms = 0; return 0; }
int hipLaunchHostFunc(void *stream, void (*function)(void *), void *argument) {
    function(argument);
    return 0;
}
const char *hipGetErrorName(int error) { return "hipSuccess"; }
const char *hipGetErrorString(int error) { return "no error"; }

/* Called by the library's own constructors, and by kernel launches. */
void **__hipRegisterFatBinary(const void *data) {
    static void *module;
    return &module;
}
int __hipPopCallConfiguration(uint32_t *grid, uint32_t *block, size_t *shared, void **stream) {
    for (int axis = 0; axis < 3; axis++) grid[axis] = block[axis] = 1;
    *shared = 0;
    *stream = &handle;
    return 0;
}
