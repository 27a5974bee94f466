/* Which type a tensor gets, and random weights. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "quant/policy.h"
#include "quant/random.h"

/* ---- the policy ---- */

static policy_tensor tensor(const char *name, weight_role role, int64_t rows, int taps, int depth)
{
    return (policy_tensor){.component = "unet", .name = name, .role = role, .matrix = {rows, taps, depth}};
}

static bool choose(weight_type wanted, const type_rule *rule, int rules, policy_tensor *t, int count, status *st)
{
    for (int i = 0; i < count; i++)
        t[i].by_rule = false;
    return policy_assign(wanted, rule, rules, t, count, st) && policy_protect(wanted, t, count, st);
}

/* A transformer of narrow layers with a convolution in front: 5 million numbers. */
static int small_model(policy_tensor *t, int width)
{
    static char names[400][40];
    int n = 0;
    t[n++] = tensor("proj_in.weight", ROLE_EDGE, width, 4, 8);
    t[n++] = tensor("time.weight", ROLE_EDGE, width, 1, 256);
    t[n++] = tensor("adaln.weight", ROLE_EDGE, 6 * width, 1, width);
    t[n++] = tensor("token.weight", ROLE_EMBEDDING, 1024, 1, width);
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 10; k++) {
            snprintf(names[n], sizeof names[n], "block.%d.%d.%s", i, k, k < 8 ? "weight" : "bias");
            int wide = k == 6 || k == 7 ? 4 : 1;
            t[n] = k < 8 ? tensor(names[n], ROLE_LINEAR, k == 6 ? width * wide : width, 1, k == 7 ? width * wide : width)
                         : tensor(names[n], ROLE_VECTOR, 1, 1, width);
            n++;
        }
    t[n++] = tensor("vae.conv.weight", ROLE_CONV, 64, 9, 64);
    t[n++] = tensor("vae.narrow.weight", ROLE_CONV, 16, 9, 16);
    t[n++] = tensor("vae.out.weight", ROLE_EDGE, 3, 9, 16);
    t[n++] = tensor("proj_out.weight", ROLE_EDGE, 32, 1, width);
    return n;
}

static const policy_tensor *find(const policy_tensor *t, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (strcmp(t[i].name, name) == 0)
            return &t[i];
    return NULL;
}

Test(policy, averages_hold_for_narrow_models)
{
    for (int width = 192; width <= 384; width += 32) {
        policy_tensor t[400];
        status st = STATUS_INIT;
        int n = small_model(t, width);
        cr_assert(choose(TYPE_Q4, NULL, 0, t, n, &st));
        cr_assert_leq(policy_bits(t, n), 4.5, "width %d: %g", width, policy_bits(t, n));
        cr_assert_eq(find(t, n, "token.weight")->type, TYPE_Q8_ROWS);
        cr_assert_eq(find(t, n, "block.3.9.bias")->type, TYPE_F32);
        cr_assert_eq(find(t, n, "block.3.1.weight")->type, TYPE_Q4);
        cr_assert_eq(find(t, n, "proj_in.weight")->type, TYPE_F16); /* padded from 8 to 32 it would be larger */
        cr_assert_eq(find(t, n, "vae.out.weight")->type, TYPE_F16);
        cr_assert_eq(find(t, n, "vae.narrow.weight")->type, TYPE_F16);
        cr_assert(find(t, n, "proj_out.weight")->type != TYPE_Q4);
        cr_assert(choose(TYPE_Q5, NULL, 0, t, n, &st));
        cr_assert_leq(policy_bits(t, n), 5.5);
        cr_assert_eq(find(t, n, "block.3.1.weight")->type, TYPE_Q5);
        cr_assert(choose(TYPE_Q8, NULL, 0, t, n, &st));
        cr_assert_leq(policy_bits(t, n), 8.5);
        cr_assert_eq(find(t, n, "block.3.1.weight")->type, TYPE_Q8);
    }
}

Test(policy, edges_are_protected_while_the_average_holds)
{
    status st = STATUS_INIT;
    policy_tensor t[64];
    for (int i = 0; i < 64; i++) /* a third of the numbers are modulation: not all of it can be finer */
        t[i] = tensor("w", i % 3 ? ROLE_LINEAR : ROLE_EDGE, 1024, 1, 1024);
    cr_assert(choose(TYPE_Q4, NULL, 0, t, 64, &st));
    int finer = 0;
    for (int i = 0; i < 64; i++)
        finer += t[i].type == TYPE_Q5;
    cr_assert(finer > 10 && finer < 15, "%d", finer);
    cr_assert_eq(t[0].type, TYPE_Q5); /* the first in use come first */
    cr_assert(policy_bits(t, 64) <= 4.5 && policy_bits(t, 64) > 4.39);
}

Test(policy, what_would_suffer_comes_first)
{
    status st = STATUS_INIT;
    policy_tensor t[64];
    for (int i = 0; i < 64; i++)
        t[i] = tensor("w", i % 3 ? ROLE_LINEAR : ROLE_EDGE, 1024, 1, 1024);
    t[40].error = 0.09f;
    t[41].error = 0.2f;
    t[43].error = 0.07f;
    cr_assert(choose(TYPE_Q4, NULL, 0, t, 64, &st));
    cr_assert(t[40].type == TYPE_Q5 && t[41].type == TYPE_Q8 && t[43].type == TYPE_Q4);
    cr_assert_leq(policy_bits(t, 64), 4.5);
}

/* T5-XXL's encoder: all of wo a type finer, and no more bytes than promised. */
Test(policy, layers_behind_the_gate_are_finer)
{
    static char names[24 * 7][64];
    static policy_tensor t[24 * 7 + 1];
    const char *const kinds[] = {"0.SelfAttention.q", "0.SelfAttention.k", "0.SelfAttention.v", "0.SelfAttention.o",
                                 "1.DenseReluDense.wi_0", "1.DenseReluDense.wi_1", "1.DenseReluDense.wo"};
    status st = STATUS_INIT;
    int n = 0;
    for (int i = 0; i < 24; i++)
        for (int k = 0; k < 7; k++, n++) {
            snprintf(names[n], sizeof names[n], "encoder.block.%d.layer.%s.weight", i, kinds[k]);
            t[n] = tensor(names[n], ROLE_LINEAR, k == 4 || k == 5 ? 10240 : 4096, 1, k == 6 ? 10240 : 4096);
        }
    t[n++] = tensor("shared.weight", ROLE_EMBEDDING, 32128, 1, 4096);
    cr_assert(choose(TYPE_Q4, NULL, 0, t, n, &st));
    uint64_t bytes = 0, one;
    for (int i = 0; i < n; i++) {
        if (i < n - 1)
            cr_assert_eq(t[i].type, i % 7 == 6 ? TYPE_Q5 : TYPE_Q4, "%s", t[i].name);
        cr_assert(type_matrix_bytes(t[i].type, &t[i].matrix, &one));
        bytes += one;
    }
    cr_assert(policy_bits(t, n) <= 4.5 && bytes <= 2750000000, "%g bits, %zu bytes", policy_bits(t, n), (size_t)bytes);
}

Test(policy, small_components_are_finer_while_the_average_holds)
{
    status st = STATUS_INIT;
    policy_tensor t[101];
    for (int i = 0; i < 101; i++) {
        t[i] = tensor("w", ROLE_LINEAR, 4096, 1, 4096);
        t[i].component = i < 97 ? "text_encoder" : "vae";
    }
    cr_assert(choose(TYPE_Q4, NULL, 0, t, 101, &st));
    for (int i = 0; i < 101; i++)
        cr_assert_eq(t[i].type, i < 97 ? TYPE_Q4 : TYPE_Q8);
    cr_assert_leq(policy_bits(t, 101), 4.5);
}

Test(policy, plain_types)
{
    status st = STATUS_INIT;
    policy_tensor t[400];
    int n = small_model(t, 256);
    cr_assert(choose(TYPE_BF16, NULL, 0, t, n, &st));
    for (int i = 0; i < n; i++)
        cr_assert_eq(t[i].type, t[i].role == ROLE_VECTOR ? TYPE_F32 : TYPE_BF16);
    cr_assert_eq(policy_bits(t, n), 16);
}

Test(policy, rules)
{
    status st = STATUS_INIT;
    policy_tensor t[400];
    int n = small_model(t, 256);
    type_rule rule[2];
    cr_assert(policy_rule("unet/block.*=q8", &rule[0], &st) && policy_rule("*/block.7.*=f16", &rule[1], &st));
    cr_assert(choose(TYPE_Q4, rule, 2, t, n, &st), "%s", st.text);
    cr_assert_eq(find(t, n, "block.3.1.weight")->type, TYPE_Q8);
    cr_assert_eq(find(t, n, "block.3.9.bias")->type, TYPE_F32); /* among others: no error */
    cr_assert_eq(find(t, n, "block.7.1.weight")->type, TYPE_F16);
    cr_assert_eq(find(t, n, "vae.conv.weight")->type, TYPE_Q4);
    const char *wrong[] = {"", "=q4", "unet/*", "unet/*=q6", "unet/*=q8_rows", "unet/*=i8"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        st = (status)STATUS_INIT;
        cr_assert_not(policy_rule(wrong[i], &rule[0], &st));
        cr_assert_eq(st.code, STATUS_USAGE);
    }
    const char *useless[] = {"nothing*=q4", "*bias=q4", "unet/proj_in.weight=q8"};
    const char *says[] = {"no tensor has such a name", "no matrix", "larger than f16"};
    for (int i = 0; i < 3; i++) {
        st = (status)STATUS_INIT;
        cr_assert(policy_rule(useless[i], &rule[0], &st));
        cr_assert_not(choose(TYPE_Q4, rule, 1, t, n, &st));
        cr_assert(st.code == STATUS_USAGE && strstr(st.text, says[i]), "%s", st.text);
    }
    st = (status)STATUS_INIT;
    cr_assert(policy_rule("*token*=q4", &rule[0], &st) && choose(TYPE_F16, rule, 1, t, n, &st));
    cr_assert_eq(find(t, n, "token.weight")->type, TYPE_Q8_ROWS);
}

/* ---- random weights ---- */

Test(random, numbers_depend_on_their_place_alone)
{
    matrix_shape m = {100, 1, 4096};
    random_tensor t = random_of(7, "unet", "w", ROLE_LINEAR, &m), other = random_of(8, "unet", "w", ROLE_LINEAR, &m);
    float all[1001], part[1001], more[1001];
    random_fill(&t, 0, 1001, all);
    for (size_t first = 0; first < 1001; first += 77)
        random_fill(&t, first, 1001 - first < 77 ? 1001 - first : 77, part + first);
    cr_assert_arr_eq(all, part, sizeof all);
    random_fill(&other, 0, 1001, more);
    cr_assert(memcmp(all, more, sizeof all) != 0);
    random_tensor gain = random_of(7, "unet", "norm.weight", ROLE_VECTOR, &(matrix_shape){1, 1, 64});
    cr_assert_eq(gain.mean, 1);
}

Test(random, moments)
{
    status st = STATUS_INIT;
    matrix_shape m = {1000, 1, 1024};
    random_tensor t = random_of(7, "unet", "w", ROLE_LINEAR, &m);
    float *x = mem_alloc(1024000, sizeof *x, "test", &st);
    random_fill(&t, 0, 1024000, x);
    double mean = 0, square = 0, fourth = 0, lag = 0;
    for (int i = 0; i < 1024000; i++) {
        double y = 32 * (double)x[i];
        mean += y / 1024000;
        square += y * y / 1024000;
        fourth += y * y * y * y / 1024000;
        lag += i ? y * 32 * x[i - 1] / 1024000 : 0;
    }
    cr_assert(fabs(mean) < 0.004 && fabs(square - 1) < 0.005 && fabs(fourth - 2.7) < 0.05 && fabs(lag) < 0.004, "%g %g %g %g", mean, square, fourth, lag);
    mem_free(x);
}
