#include "tools/bench_shapes.h"

#define T5(type, tokens)                                     \
    {"T5-XXL", OP_LINEAR, type, tokens, 4096, 4096, 0},      \
    {"T5-XXL", OP_LINEAR, type, tokens, 4096, 10240, 0},     \
    {"T5-XXL", OP_LINEAR, type, tokens, 10240, 4096, 0}
#define PIXART(type)                                         \
    {"PixArt", OP_LINEAR, type, 4096, 1152, 1152, 0},        \
    {"PixArt", OP_LINEAR, type, 4096, 1152, 4608, 0},        \
    {"PixArt", OP_LINEAR, type, 4096, 4608, 1152, 0}
#define UNET_CONVS(type)                                     \
    {"SD 1.5", OP_CONV, type, 64, 320, 320, 0},              \
    {"SD 1.5", OP_CONV, type, 32, 640, 640, 0},              \
    {"SD 1.5", OP_CONV, type, 16, 1280, 1280, 0},            \
    {"VAE", OP_CONV, type, 128, 512, 512, 0},                \
    {"VAE", OP_CONV, type, 256, 256, 256, 0}
#define ATTENTIONS(type)                                     \
    {"SD 1.5", OP_ATTENTION, type, 4096, 4096, 40, 8},       \
    {"SD 1.5", OP_ATTENTION, type, 4096, 77, 40, 8},         \
    {"SD 1.5", OP_ATTENTION, type, 64, 77, 160, 8},          \
    {"SD 2", OP_ATTENTION, type, 4096, 4096, 64, 8},         \
    {"SDXL", OP_ATTENTION, type, 4096, 4096, 64, 10},        \
    {"PixArt", OP_ATTENTION, type, 4096, 4096, 72, 16},      \
    {"PixArt", OP_ATTENTION, type, 1024, 300, 72, 16},       \
    {"T5-XXL", OP_ATTENTION, type, 77, 77, 64, 64},          \
    {"T5-XXL", OP_ATTENTION, type, 256, 256, 64, 64}

const op_shape bench_shapes[] = {
    T5(TYPE_Q4, 20),
    T5(TYPE_Q4, 77),
    T5(TYPE_Q4, 256),
    {"T5-XXL", OP_LINEAR, TYPE_Q5, 77, 4096, 4096, 0},
    {"T5-XXL", OP_LINEAR, TYPE_Q8, 20, 4096, 4096, 0},
    {"T5-XXL", OP_LINEAR, TYPE_Q8, 77, 4096, 4096, 0},
    {"T5-XXL", OP_LINEAR, TYPE_Q8, 256, 4096, 4096, 0},
    {"T5-XXL", OP_LINEAR, TYPE_F32, 77, 4096, 4096, 0},
    {"T5-XXL", OP_LINEAR, TYPE_BF16, 77, 4096, 4096, 0},
    PIXART(TYPE_Q4),
    PIXART(TYPE_Q8),
    {"PixArt", OP_LINEAR, TYPE_F32, 4096, 1152, 1152, 0},
    {"SD 1.5", OP_LINEAR, TYPE_Q8, 4096, 320, 320, 0},
    {"SD 1.5", OP_LINEAR, TYPE_Q8, 4096, 320, 2560, 0},
    {"SD 1.5", OP_LINEAR, TYPE_Q8, 256, 1280, 1280, 0},
    {"SD 1.5", OP_LINEAR, TYPE_Q8, 64, 1280, 10240, 0},
    {"SDXL", OP_LINEAR, TYPE_Q8, 1024, 1280, 1280, 0},
    {"SDXL", OP_LINEAR, TYPE_Q8, 1024, 1280, 10240, 0},
    {"SDXL", OP_LINEAR, TYPE_Q8, 1024, 5120, 1280, 0},
    {"SDXL", OP_LINEAR, TYPE_F32, 1024, 1280, 1280, 0},
    UNET_CONVS(TYPE_Q8),
    UNET_CONVS(TYPE_F32),
    ATTENTIONS(TYPE_F32),
    ATTENTIONS(TYPE_Q8),
    {"PixArt", OP_LAYER_NORM, TYPE_F32, 16384, 1152, 0, 0},
    {"T5-XXL", OP_RMS_NORM, TYPE_F32, 4096, 4096, 0, 0},
    {"VAE", OP_GROUP_NORM, TYPE_F32, 256, 256, 0, 0},
    {"PixArt", OP_GELU_TANH, TYPE_F32, 4096, 4608, 0, 0},
    {"SDXL", OP_GELU_ERF, TYPE_F32, 4096, 5120, 0, 0},
    {"VAE", OP_SILU, TYPE_F32, 65536, 256, 0, 0},
    {"T5-XXL", OP_ACT_MUL, TYPE_F32, 2048, 10240, 0, 0},
    {"PixArt", OP_ADD, TYPE_F32, 16384, 1152, 0, 0},
    {"PixArt", OP_QUANTIZE, TYPE_F32, 16384, 1152, 0, 0},
    {"T5-XXL", OP_QUANTIZE, TYPE_F32, 4096, 4096, 0, 0},
};
const int bench_shape_count = sizeof bench_shapes / sizeof *bench_shapes;
