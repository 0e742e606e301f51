/* MIGraphX's C interface, with programs that have no parameters and do nothing.
 *
 * Enough for onnxruntime to partition a graph and create the session (migraphx_status_success is
 * 0); build.py adds the rest as functions that return 0.
 */
#include <stddef.h>

static int handle;

#define CREATES(name) \
    int name(void **object) { *object = &handle; return 0; }
#define SIZE(name) \
    int name(size_t *size) { *size = 0; return 0; }

CREATES(migraphx_program_create)
CREATES(migraphx_compile_options_create)
CREATES(migraphx_file_options_create)
CREATES(migraphx_onnx_options_create)
CREATES(migraphx_parse_onnx_buffer)
CREATES(migraphx_load)
CREATES(migraphx_program_get_output_shapes)
CREATES(migraphx_program_get_parameter_shapes)
CREATES(migraphx_program_parameter_shapes_get)
CREATES(migraphx_program_parameters_create)
CREATES(migraphx_target_create)
SIZE(migraphx_program_parameter_shapes_size)
SIZE(migraphx_shapes_size)
SIZE(migraphx_arguments_size)
