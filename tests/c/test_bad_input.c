/* What is wrong is refused by name before anything is written. */
#include "check.h"

enum { T = 4, B = 2, D = 3, H = 5, Q = 3 };

static double x[T * B * D], h_0[B * H], y[T * B * Q], parameters[1000], gradient[1000];
static int64_t tokens[T * B], classes[T * B], lengths[B];
static double out[T * B * H + 1];
static double loss;

static const double kUntouched = 12345;

static void touch_nothing(void) {
    size_t i;
    for (i = 0; i < 1000; ++i) gradient[i] = kUntouched;
    for (i = 0; i < T * B * H + 1; ++i) out[i] = kUntouched;
    loss = kUntouched;
}
static int untouched(void) {
    size_t i;
    for (i = 0; i < 1000; ++i)
        if (gradient[i] < kUntouched || gradient[i] > kUntouched) return 0;
    for (i = 0; i < T * B * H + 1; ++i)
        if (out[i] < kUntouched || out[i] > kUntouched) return 0;
    return !(loss < kUntouched || loss > kUntouched);
}

static void test_config(void) {
    pybptt_network* network = NULL;
    pybptt_config good = {sizeof good, D, H, 1, 0, 0, 0, PYBPTT_FLOAT64, PYBPTT_ELMAN, 0, 0, 0, 0, 0, 0, 0, 0};
    pybptt_config c;
#define REFUSED(change, text)                                                        \
    c = good;                                                                        \
    change;                                                                          \
    CHECK_FAILS(pybptt_network_create(&c, &network), PYBPTT_INVALID_ARGUMENT, text); \
    CHECK(network == NULL)

    CHECK_FAILS(pybptt_network_create(NULL, &network), PYBPTT_INVALID_ARGUMENT, "config: expected a pointer, got null");
    CHECK_FAILS(pybptt_network_create(&good, NULL), PYBPTT_INVALID_ARGUMENT, "network: expected a pointer, got null");
    REFUSED(c.size = 0, "config.size: expected ");
    REFUSED(c.size = sizeof c - 1, "config.size: expected ");
    REFUSED(c.input_size = 0, "config.input_size: expected at least 1, got 0");
    REFUSED(c.hidden_size = 0, "config.hidden_size: ");
    REFUSED(c.num_layers = 0, "config.num_layers: ");
    REFUSED(c.num_layers = (size_t)-1, "config.num_layers: expected at most ");
    REFUSED(c.dtype = 2, "config.dtype: expected one of 0 to 1, got 2");
    REFUSED(c.cell = -1, "config.cell: expected one of 0 to 2, got -1");
    REFUSED(c.nonlinearity = 4, "config.nonlinearity: ");
    REFUSED(c.bidirectional = 2, "config.bidirectional: expected 0 or 1, got 2");
    REFUSED(c.peephole = 1, "config.peephole, config.coupled: expected 0");
    REFUSED(c.reset_before = 1, "config.reset_before: expected 0");
    REFUSED(c.proj_size = 2, "config.proj_size: expected 0 for this cell, got 2");
    REFUSED((c.cell = PYBPTT_LSTM, c.proj_size = H), "config.proj_size: expected less than hidden_size = 5, got 5");
    REFUSED(c.last_only = 1, "config.last_only: ");
    REFUSED(c.clip = -1, "config.clip: ");
    REFUSED(c.clip = NAN, "config.clip: ");
    REFUSED(c.clip = INFINITY, "config.clip: ");
    c = good;
    c.hidden_size = (size_t)1 << 40;
    CHECK_FAILS(pybptt_network_create(&c, &network), PYBPTT_OUT_OF_MEMORY, "memory");
    c.hidden_size = (size_t)-1;
    CHECK_FAILS(pybptt_network_create(&c, &network), PYBPTT_OUT_OF_MEMORY, "memory");
    CHECK(network == NULL);
#undef REFUSED
    { /* a later version's struct: what this one does not know must not be used */
        struct {
            pybptt_config config;
            int64_t later;
        } grown;
        memset(&grown, 0, sizeof grown);
        grown.config = good;
        grown.config.size = sizeof grown;
        CHECK_OK(pybptt_network_create(&grown.config, &network));
        pybptt_network_destroy(network);
        network = NULL;
        grown.later = 1;
        CHECK_FAILS(pybptt_network_create(&grown.config, &network), PYBPTT_INVALID_ARGUMENT,
                    "config: expected fields that version ");
    }
    pybptt_network_destroy(NULL);
    CHECK(pybptt_network_parameter_count(NULL) == 0 && pybptt_network_parameter_arrays(NULL) == 0 && pybptt_tape_bytes(NULL) == 0);
}

static void test_model(void) {
    pybptt_config config = {sizeof config, D, H, 1, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_LSTM, 0, 0, 0, 0, 0, 0, 0, 0};
    pybptt_network* network = NULL;
    pybptt_input input = {.size = sizeof input}, given;
    pybptt_targets targets = {.size = sizeof targets}, y_given;
    pybptt_truncation truncation = {.size = sizeof truncation}, t_given;
    pybptt_options options = {.size = sizeof options}, o_given;
    pybptt_gradients gradients = {.size = sizeof gradients}, g_given;
    pybptt_output state = {.size = sizeof state}, s_given;
    pybptt_packed* packed = NULL;
    CHECK_OK(pybptt_network_create(&config, &network));
    input.steps = T;
    input.batch = B;
    input.parameters = parameters;
    input.parameter_count = gradients.parameter_count = pybptt_network_parameter_count(network);
    input.tokens = tokens;
    input.lengths = lengths;
    targets.classes = classes;
    gradients.parameters = gradient;
    state.h_n = out;
    CHECK_OK(pybptt_pack(network, parameters, input.parameter_count, 1, &packed));
    touch_nothing();
#define REFUSED(change, status, text)                                                                                          \
    given = input, y_given = targets, t_given = truncation, o_given = options, g_given = gradients, s_given = state;           \
    change;                                                                                                                    \
    CHECK_FAILS(pybptt_loss_and_grad(network, &given, &y_given, &t_given, &o_given, &s_given, &g_given, &loss), status, text); \
    CHECK(untouched())
#define INVALID(change, text) REFUSED(change, PYBPTT_INVALID_ARGUMENT, text)

    INVALID(given.size = 1, "input.size: expected ");
    INVALID(given.parameters = NULL, "input.parameters: expected a pointer, got null");
    INVALID(--given.parameter_count, "input.parameter_count: expected ");
    INVALID(given.packed = packed, "input.packed: expected null");
    INVALID(given.dense = x, "input.dense: expected null beside input.tokens");
    INVALID(given.tokens = NULL, "input.dense: expected an array of 24 values, got null");
    INVALID(given.dropout_mask = x, "input.dropout_mask: expected null");
    INVALID(given.h_0 = (const char*)h_0 + 4, "input.h_0: expected an address that is a multiple of 8");
    INVALID(lengths[1] = T + 1, "lengths: expected values in [0, 4], got 5 at [1]");
    INVALID(lengths[1] = -1, "lengths: expected values in [0, 4], got -1 at [1]");
    lengths[1] = T - 1;
    REFUSED(tokens[2] = D, PYBPTT_OUT_OF_RANGE, "input.tokens: expected ids in [0, 3), got 3 at [1, 0]");
    REFUSED(tokens[2] = -1, PYBPTT_OUT_OF_RANGE, "input.tokens: expected ids in [0, 3), got -1 at [1, 0]");
    tokens[2] = 0;
    REFUSED(classes[5] = Q, PYBPTT_OUT_OF_RANGE, "targets.classes: expected ids in [0, 3), got 3 at [2, 1]");
    classes[5] = 0;
    INVALID(y_given.values = y, "targets.classes, targets.values: expected one of the two");
    INVALID(y_given.classes = NULL, "targets.classes, targets.values: expected one of the two");
    INVALID(y_given.reduction = 2, "targets.reduction: ");
    INVALID(t_given.k1 = 1, "truncation.k1, truncation.k2: expected both at least 1, or both 0, got 1, 0");
    INVALID((t_given.k1 = t_given.k2 = 1, t_given.factors = x), "truncation.factors: expected null beside k1 and k2");
    INVALID(t_given.clip_hidden = 3, "truncation.clip_hidden: ");
    INVALID(t_given.clip_hidden = PYBPTT_CLIP_NORM, "truncation.clip_limit: expected a positive number");
    INVALID((t_given.clip_hidden = PYBPTT_CLIP_NORM, t_given.clip_limit = NAN), "truncation.clip_limit: ");
    INVALID(o_given.memory_limit = 1, "memory_limit: expected at least ");
    INVALID(g_given.parameters = NULL, "gradients.parameters: expected a pointer, got null");
    INVALID(++g_given.parameter_count, "gradients.parameter_count: expected ");
    INVALID(g_given.input = out, "gradients.input: expected null"); /* of token ids */
    INVALID(g_given.h_0 = gradient, "expected memory of its own, got some that gradients.h_0 has as well");
    INVALID(g_given.parameters = parameters, "expected memory of its own, got some that input.parameters has as well");
    INVALID(s_given.output = out, "output.output, output.cells: expected null for this call");
    REFUSED((given.steps = (size_t)1 << 62, given.batch = 16), PYBPTT_OUT_OF_MEMORY, "memory");
    REFUSED(given.steps = (size_t)-1, PYBPTT_OUT_OF_MEMORY, "memory");
    CHECK_FAILS(pybptt_loss_and_grad(NULL, &input, &targets, NULL, NULL, NULL, &gradients, &loss), PYBPTT_INVALID_ARGUMENT,
                "network");
    CHECK_FAILS(pybptt_loss_and_grad(network, NULL, &targets, NULL, NULL, NULL, &gradients, &loss), PYBPTT_INVALID_ARGUMENT,
                "input");
    CHECK_FAILS(pybptt_loss_and_grad(network, &input, NULL, NULL, NULL, NULL, &gradients, &loss), PYBPTT_INVALID_ARGUMENT,
                "targets");
    CHECK_FAILS(pybptt_loss_and_grad(network, &input, &targets, NULL, NULL, NULL, NULL, &loss), PYBPTT_INVALID_ARGUMENT,
                "gradients");
    CHECK_FAILS(pybptt_loss_and_grad(network, &input, &targets, NULL, NULL, NULL, &gradients, NULL), PYBPTT_INVALID_ARGUMENT,
                "loss");
    CHECK_FAILS(pybptt_forward(network, &input, NULL, &state, NULL), PYBPTT_INVALID_ARGUMENT, "network: expected one without");
    CHECK(untouched());
    /* Past a sequence's end ids may be anything. */
    tokens[7] = classes[7] = 99;
    CHECK_OK(pybptt_loss_and_grad(network, &input, &targets, NULL, NULL, &state, &gradients, &loss));
    CHECK(!untouched());
    tokens[7] = classes[7] = 0;
    pybptt_packed_destroy(packed);
    pybptt_network_destroy(network);
#undef INVALID
#undef REFUSED
}

static void test_layer(void) {
    pybptt_config config = {sizeof config, D, H, 1, 0, 0, 0, PYBPTT_FLOAT64, PYBPTT_ELMAN, 0, 1, 0, 0, 0, 0, 0, 0};
    pybptt_network *network = NULL, *other = NULL;
    pybptt_input input = {.size = sizeof input};
    pybptt_output output = {.size = sizeof output};
    pybptt_options options = {.size = sizeof options};
    pybptt_upstream upstream = {.size = sizeof upstream};
    pybptt_truncation truncation = {.size = sizeof truncation};
    pybptt_gradients gradients = {.size = sizeof gradients};
    pybptt_tape* tape = NULL;
    pybptt_packed* packed = NULL;
    CHECK_OK(pybptt_network_create(&config, &network));
    config.hidden_size = H + 1;
    CHECK_OK(pybptt_network_create(&config, &other));
    input.steps = T;
    input.batch = B;
    input.parameters = parameters;
    input.parameter_count = gradients.parameter_count = pybptt_network_parameter_count(network);
    input.dense = x;
    gradients.parameters = gradient;
    touch_nothing();
    CHECK_FAILS(pybptt_forward(network, &input, NULL, NULL, &tape), PYBPTT_INVALID_ARGUMENT,
                "output: expected a pointer, got null");
    CHECK_FAILS(pybptt_forward(network, &input, NULL, &output, NULL), PYBPTT_INVALID_ARGUMENT,
                "tape: expected a pointer, got null");
    output.cells = out;
    CHECK_FAILS(pybptt_forward(network, &input, NULL, &output, &tape), PYBPTT_INVALID_ARGUMENT, "output.cells: expected null");
    output.cells = NULL;
    options.memory_limit = 1 << 20;
    CHECK_FAILS(pybptt_forward(network, &input, &options, &output, &tape), PYBPTT_INVALID_ARGUMENT,
                "memory_limit: expected a network of one direction");
    CHECK(tape == NULL && untouched());
    CHECK_FAILS(pybptt_pack(network, NULL, 0, 0, &packed), PYBPTT_INVALID_ARGUMENT, "parameters: expected a pointer, got null");
    CHECK_FAILS(pybptt_pack(network, parameters, 1, 0, &packed), PYBPTT_INVALID_ARGUMENT, "parameter_count: expected ");
    CHECK_OK(pybptt_pack(network, parameters, input.parameter_count, 1, &packed));
    input.packed = packed;
    CHECK_FAILS(pybptt_infer(network, &input, &output), PYBPTT_INVALID_ARGUMENT,
                "input.parameters: expected null beside input.packed");
    input.parameters = NULL;
    CHECK_FAILS(pybptt_infer(network, &input, &output), PYBPTT_INVALID_ARGUMENT, "input.tokens: expected token ids");
    CHECK_FAILS(pybptt_infer(other, &input, &output), PYBPTT_INVALID_ARGUMENT, "input.packed: expected weights of this network");
    input.packed = NULL;
    input.parameters = parameters;

    CHECK_OK(pybptt_forward(network, &input, NULL, &output, &tape));
    touch_nothing();
    CHECK_FAILS(pybptt_backward(NULL, &upstream, NULL, NULL, &gradients), PYBPTT_INVALID_ARGUMENT,
                "tape: expected a pointer, got null");
    CHECK_FAILS(pybptt_backward(tape, NULL, NULL, NULL, &gradients), PYBPTT_INVALID_ARGUMENT,
                "upstream: expected a pointer, got null");
    upstream.d_cells = x;
    CHECK_FAILS(pybptt_backward(tape, &upstream, NULL, NULL, &gradients), PYBPTT_INVALID_ARGUMENT,
                "upstream.d_cells: expected null");
    upstream.d_cells = NULL;
    upstream.dropout_mask = x;
    CHECK_FAILS(pybptt_backward(tape, &upstream, NULL, NULL, &gradients), PYBPTT_INVALID_ARGUMENT,
                "upstream.dropout_mask: expected null");
    upstream.dropout_mask = NULL;
    truncation.k1 = truncation.k2 = 2;
    CHECK_FAILS(pybptt_backward(tape, &upstream, &truncation, NULL, &gradients), PYBPTT_INVALID_ARGUMENT,
                "truncation: expected a network of one direction");
    CHECK_FAILS(pybptt_backward(tape, &upstream, NULL, &options, &gradients), PYBPTT_INVALID_ARGUMENT, "options.memory_limit: ");
    CHECK(untouched());
    CHECK_OK(pybptt_backward(tape, &upstream, NULL, NULL, &gradients));

    /* Nothing is something, too. */
    pybptt_tape_destroy(tape);
    tape = NULL;
    input.steps = 0;
    input.dense = NULL;
    CHECK_OK(pybptt_forward(network, &input, NULL, &output, &tape));
    CHECK_OK(pybptt_backward(tape, &upstream, NULL, NULL, &gradients));
    CHECK_CLOSE(gradient[0], 0, 0);
    pybptt_tape_destroy(tape);
    pybptt_packed_destroy(packed);
    pybptt_network_destroy(network);
    pybptt_network_destroy(other);

    CHECK_FAILS(pybptt_set_num_threads(0), PYBPTT_INVALID_ARGUMENT, "expected a number of threads from 1 to ");
    CHECK_FAILS(pybptt_linear_scan(2, 1, 1, x, x, NULL, out), PYBPTT_INVALID_ARGUMENT, "dtype");
    CHECK_FAILS(pybptt_linear_scan(PYBPTT_FLOAT64, 1, 1, x, x, NULL, x), PYBPTT_INVALID_ARGUMENT, "a: expected memory of its own");
    CHECK_FAILS(pybptt_linear_scan(PYBPTT_FLOAT64, (size_t)-1, 3, x, x, NULL, out), PYBPTT_OUT_OF_MEMORY, "memory");
}

void test_bad_input(void) {
    lengths[0] = T;
    lengths[1] = T - 1;
    test_config();
    test_model();
    test_layer();
    CHECK(strcmp(pybptt_version(), PYBPTT_VERSION) == 0 && pybptt_tier() != NULL);
}
