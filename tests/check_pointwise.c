/* check_pointwise.c: norms, activation functions and what else looks at an element or a row at a time. */
#include "tests/check.h"

/* ---- norms ---- */

static void one_norm(bool rms, int n, int kind, bool gain, bool bias)
{
    static const char *const kinds[] = {"normal", "far from zero", "constant", "huge", "denormal", "one spike"};
    begin_case("n %d, %s%s%s", n, kinds[kind], gain ? ", gain" : "", bias ? ", bias" : "");
    float *x = ARRAY(float, n), *g = ARRAY(float, n), *b = ARRAY(float, n), *out = ARRAY(float, n), *want = ARRAY(float, n);
    float eps = random_bits() & 1 ? 1e-6f : 1e-5f;
    fill(x, (size_t)n, kind == 3 ? HUGE_VALUES : kind == 4 ? TINY : NORMAL);
    for (int i = 0; i < n; i++) {
        x[i] = kind == 1 ? x[i] + 3000 : kind == 2 ? 7.25f : x[i];
        g[i] = 1 + random_unit() / 2;
        b[i] = random_unit();
    }
    if (kind == 5)
        x[random_int(0, n - 1)] = 60000;
    seal(g), seal(b);
    float *gains = gain ? g : NULL, *biases = bias ? b : NULL;
    for (int in_place = 0; in_place < 2; in_place++) {
        float *to = in_place ? x : out;
        if (rms)
            run.scalar->rms_norm(x, n, eps, gains, want), run.set->rms_norm(x, n, eps, gains, to);
        else
            run.scalar->layer_norm(x, n, eps, gains, biases, want), run.set->layer_norm(x, n, eps, gains, biases, to);
        near_floats(in_place ? "in place" : "out", to, want, (size_t)n, 2e-6);
    }
    end_case();
}

static void norms(bool rms)
{
    static const int lengths[] = {64, 100, 1152, 1155, 4096};
    for (int n = 1; n <= 40; n++)
        one_norm(rms, n, random_int(0, 5), n & 1, n & 2);
    for (int i = 0; i < 24; i++)
        one_norm(rms, PICK(lengths), i % 6, random_bits() & 1, random_bits() & 1);
}

void test_layer_norm(void) { norms(false); }
void test_rms_norm(void) { norms(true); }

/* ---- pointwise ---- */

const char *const act_names[ACTS] = {"none", "relu", "silu", "gelu_tanh", "gelu_erf", "quick_gelu"};

static float some_input(int i) /* mostly where the functions bend, then anything finite */
{
    static const float special[] = {0, -0.0f, 1e-40f, -1e-40f, 1e-30f, 88, -88, 89, -89, 104, -104, 1e4f, -1e4f, 1e18f, -1e18f};
    if (i % 5 == 0)
        return PICK(special);
    return i % 5 == 1 ? random_unit() * 100 : random_unit() * 12;
}

static double act_bound(activation act) { return act == ACT_NONE || act == ACT_RELU ? 0 : 1e-6; }

static void call_act(const kernels *set, bool plain, activation act, const float *x, const float *scale, const float *shift,
                     float *out, size_t n)
{
    if (plain)
        set->activate(act, x, out, n);
    else
        set->scale_shift_act(x, scale, shift, act, out, n);
}

static void one_act(bool plain, activation act, size_t n)
{
    float *x = ARRAY(float, n), *scale = ARRAY(float, n), *shift = ARRAY(float, n), *out = ARRAY(float, n), *want = ARRAY(float, n);
    const float *some_scale = random_bits() & 1 ? scale : NULL, *some_shift = random_bits() & 1 ? shift : NULL;
    begin_case("%s, n %zu%s%s", act_names[act], n, some_scale ? ", scale" : "", some_shift ? ", shift" : "");
    for (size_t i = 0; i < n; i++)
        x[i] = some_input((int)i), scale[i] = random_unit(), shift[i] = random_unit() * 100;
    if (n % 8 == 3)
        x[n / 2] = NAN;
    seal(scale), seal(shift);
    call_act(run.scalar, plain, act, x, some_scale, some_shift, want, n);
    call_act(run.set, plain, act, x, some_scale, some_shift, out, n);
    near_floats("out", out, want, n, act_bound(act));
    call_act(run.set, plain, act, x, some_scale, some_shift, x, n);
    same_floats("in place", x, out, n);
    end_case();
}

static void acts(bool plain)
{
    for (int act = 0; act < ACTS; act++)
        for (size_t n = 1; n <= 20001; n = n < 75 ? n + 1 : n * 22)
            one_act(plain, (activation)act, n);
}

void test_activate(void) { acts(true); }
void test_scale_shift_act(void) { acts(false); }

void test_act_mul(void)
{
    for (int act = 0; act < ACTS; act++)
        for (size_t n = 1; n <= 75; n++) {
            begin_case("%s, n %zu", act_names[act], n);
            float *x = ARRAY(float, n), *y = ARRAY(float, n), *out = ARRAY(float, n), *want = ARRAY(float, n), *z = ARRAY(float, n);
            for (size_t i = 0; i < n; i++)
                x[i] = z[i] = some_input((int)i), y[i] = ldexpf(random_bits() & 1 ? 1 : -1, random_int(-3, 3)); /* exact */
            run.scalar->act_mul((activation)act, x, y, want, n);
            run.set->act_mul((activation)act, x, y, out, n);
            near_floats("out", out, want, n, act_bound((activation)act) * 8);
            run.set->act_mul((activation)act, z, y, z, n);
            same_floats("out is x", z, out, n);
            run.set->activate((activation)act, x, want, n);
            for (size_t i = 0; i < n; i++)
                want[i] *= y[i];
            run.set->act_mul((activation)act, x, y, y, n);
            same_floats("out is y", y, out, n);
            same_floats("activate, then times y", want, out, n);
            end_case();
        }
}

void test_add_gated(void)
{
    for (size_t n = 1; n <= 90; n++)
        for (int gated = 0; gated < 2; gated++) {
            values kind = (values)random_int(0, VALUES - 1);
            begin_case("n %zu, %s%s", n, value_names[kind], gated ? ", gate" : "");
            float *x = ARRAY(float, n), *y = ARRAY(float, n), *gate = ARRAY(float, n), *want = ARRAY(float, n);
            fill(x, n, kind), fill(y, n, kind), fill(gate, n, kind);
            memcpy(want, x, n * sizeof *x);
            seal(y), seal(gate);
            run.scalar->add_gated(want, y, gated ? gate : NULL, n);
            run.set->add_gated(x, y, gated ? gate : NULL, n);
            same_floats("x", x, want, n);
            end_case();
        }
}

void test_channel_sums(void)
{
    for (int channels = 1; channels <= 150; channels++) {
        int pixels = random_int(1, 30);
        values kind = (values)random_int(0, VALUES - 1);
        begin_case("%d pixels, %d channels, %s", pixels, channels, value_names[kind]);
        size_t c = (size_t)channels, n = c * (size_t)pixels;
        float *x = ARRAY(float, n), *sum = ARRAY(float, c), *square = ARRAY(float, c), *sum2 = ARRAY(float, c), *square2 = ARRAY(float, c);
        fill(x, n, kind), fill(sum, c, kind), fill(square, c, kind);
        memcpy(sum2, sum, c * sizeof *sum), memcpy(square2, square, c * sizeof *sum);
        seal(x);
        run.set->channel_sums(x, (size_t)pixels, channels, sum, square);
        run.scalar->channel_sums(x, (size_t)pixels, channels, sum2, square2);
        same_floats("sum", sum, sum2, c);
        same_floats("square", square, square2, c);
        end_case();
    }
}
