/* MIOpen whose descriptors are all one and whose operations do nothing (miopenStatusSuccess is 0).
 *
 * Only what a caller reads back is defined; build.py adds the rest as functions that return 0.
 */
#include <stddef.h>
#include <string.h>

static int handle;

#define CREATES_FIRST(name) \
    int name(void **object) { *object = &handle; return 0; }
#define CREATES_SECOND(name) \
    int name(void *plan, void **object) { *object = &handle; return 0; }

CREATES_FIRST(miopenCreate)
CREATES_FIRST(miopenCreateActivationDescriptor)
CREATES_FIRST(miopenCreateConvolutionDescriptor)
CREATES_FIRST(miopenCreateFusionPlan)
CREATES_FIRST(miopenCreateLRNDescriptor)
CREATES_FIRST(miopenCreateOperatorArgs)
CREATES_FIRST(miopenCreatePoolingDescriptor)
CREATES_FIRST(miopenCreateReduceTensorDescriptor)
CREATES_FIRST(miopenCreateTensorDescriptor)
CREATES_SECOND(miopenCreateOpActivationForward)
CREATES_SECOND(miopenCreateOpBiasForward)
CREATES_SECOND(miopenCreateOpConvForward)

const char *miopenGetErrorString(int error) { return "miopenStatusSuccess"; }

int miopenConvolutionForwardGetWorkSpaceSize(void *miopen, void *w, void *x, void *conv, void *y,
                                             size_t *bytes) {
    *bytes = 0;
    return 0;
}
int miopenGetReductionIndicesSize(void *miopen, void *reduce, void *from, void *to, size_t *bytes) {
    *bytes = 0;
    return 0;
}
int miopenGetReductionWorkspaceSize(void *miopen, void *reduce, void *from, void *to,
                                    size_t *bytes) {
    *bytes = 0;
    return 0;
}
int miopenGetConvolutionSpatialDim(void *conv, int *rank) { *rank = 2; return 0; }
int miopenGetTensorDescriptorSize(void *tensor, int *rank) { *rank = 4; return 0; }

/* miopenConvAlgoPerf_t is 24 bytes; one result of zeros names the first algorithm. */
int miopenFindConvolutionForwardAlgorithm(void *miopen, void *x, const void *x_data, void *w,
                                          const void *w_data, void *conv, void *y, void *y_data,
                                          int wanted, int *found, void *results) {
    memset(results, 0, 24);
    *found = 1;
    return 0;
}
int miopenFindConvolutionBackwardDataAlgorithm(void *miopen, void *y, const void *y_data, void *w,
                                               const void *w_data, void *conv, void *x,
                                               void *x_data, int wanted, int *found,
                                               void *results) {
    memset(results, 0, 24);
    *found = 1;
    return 0;
}
