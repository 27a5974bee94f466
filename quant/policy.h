/* policy.h: which type each tensor of a container gets.
 *
 * `--type q4` promises that matrices and convolutions average at most 4.5 bit over the whole container, with everything that they take
 * (row scales, tables, padding); q5: 5.5; q8: 8.5. Protection of sensitive layers is paid from what is left under that, the most
 * important first. */
#ifndef PENSTOCK_POLICY_H
#define PENSTOCK_POLICY_H

#include "weights/plan.h"

typedef struct type_rule {      /* --tensor-type GLOB=TYPE; the glob is matched with COMPONENT/NAME */
    char glob[256];
    weight_type type;
} type_rule;

typedef struct policy_tensor {
    const char *component, *name;
    weight_role role;
    matrix_shape matrix;
    weight_type type;           /* what is said about it */
    bool by_rule;               /* a rule said it, or the caller: it is that already */
    float error;                /* relative RMS, as the type that policy_assign says, of some of its rows; 0: unknown */
} policy_tensor;

/* "GLOB=TYPE"; the last '=' divides them. A wrong one: STATUS_USAGE. */
bool policy_rule(const char *text, type_rule *out, status *st);
/* "q4" for --type: one of the types that a container may be made of. */
bool policy_type(const char *text, weight_type *out, status *st);

/* Types for all tensors of a container by their roles and the rules; those that have by_rule set keep theirs. The last rule that
 * matches wins. A rule that matches nothing, or nothing that could be of its type, is STATUS_USAGE. */
bool policy_assign(weight_type wanted, const type_rule *rule, int rules, policy_tensor *t, int count, status *st);
/* Finer types for the most sensitive, as far as the average allows. */
bool policy_protect(weight_type wanted, policy_tensor *t, int count, status *st);

/* Bits a number that matrices and convolutions take on average; 0 when there are none. */
double policy_bits(const policy_tensor *t, int count);

#endif
