/* first_picture.c: the whole library in thirty lines.
 *
 *     cc first_picture.c $(pkg-config --cflags --libs penstock) -o first_picture
 *     ./first_picture "a red circle above a blue square" out.png [MODEL] */
#include <penstock.h>
#include <stdio.h>

static void show(void *ctx, const char *stage, int done, int total)
{
    (void)ctx;
    fprintf(stderr, "%s %d/%d\n", stage, done, total);
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: %s PROMPT OUT.png [MODEL]\n", argv[0]);
        return 2;
    }
    penstock_error e = {0};
    penstock_model *model = penstock_open(argc > 3 ? argv[3] : NULL, &e);
    penstock_options o = penstock_defaults();
    o.prompt = argv[1];
    o.seed = 42;
    o.progress = show;
    if (model && penstock_generate_png(model, &o, argv[2], &e))
        printf("%s\n", argv[2]);
    penstock_close(model);
    if (e.code)
        fprintf(stderr, "first_picture: %s\n", e.text);
    return e.code;
}
