/* Values: the loss against loops written out here, gradients against central differences of the loss, and everything that must come
 * out the same whichever way it is asked for. */
#include "check.h"

enum { T = 6, B = 3, D = 4, H = 5, Q = 3 };

static pybptt_network* make(const pybptt_config* given) {
    pybptt_config config = *given;
    pybptt_network* network = NULL;
    config.size = sizeof config;
    CHECK_OK(pybptt_network_create(&config, &network));
    return network;
}

/* A network with an output layer, all that its calls read, and room for all that they write. */
typedef struct problem {
    pybptt_network* network;
    size_t count, width, units; /* parameters, K P, L K */
    int classes_wanted;
    double *parameters, *x, *h_0, *c_0, *mask, *values;
    int64_t tokens[T * B], classes[T * B], lengths[B];
    pybptt_input input;
    pybptt_targets targets;
    double *gradient, *d_x, *d_h_0, *d_c_0;
    pybptt_gradients gradients;
} problem;

static void problem_new(problem* p, const pybptt_config* config, int tokens, int ragged) {
    size_t i;
    const size_t directions = config->bidirectional ? 2 : 1, P = config->proj_size ? config->proj_size : H;
    const int lstm = config->cell == PYBPTT_LSTM;
    memset(p, 0, sizeof *p);
    p->network = make(config);
    p->count = pybptt_network_parameter_count(p->network);
    p->width = directions * P;
    p->units = config->num_layers * directions;
    p->parameters = random_values(p->count);
    for (i = 0; i < p->count; ++i) p->parameters[i] *= 0.5;
    p->x = random_values(T * B * D);
    p->h_0 = random_values(p->units * B * P);
    p->c_0 = random_values(p->units * B * H);
    p->mask = random_values((config->num_layers - 1) * T * B * p->width);
    p->values = random_values(T * B * Q);
    for (i = 0; i < T * B; ++i) {
        p->tokens[i] = (int64_t)(i * 7 % D);
        p->classes[i] = (int64_t)(i * 5 % Q);
    }
    for (i = 0; i < B; ++i) p->lengths[i] = (int64_t)(T - i * 2);
    p->input.size = sizeof p->input;
    p->input.steps = T;
    p->input.batch = B;
    p->input.parameters = p->parameters;
    p->input.parameter_count = p->count;
    if (tokens)
        p->input.tokens = p->tokens;
    else
        p->input.dense = p->x;
    if (ragged) p->input.lengths = p->lengths;
    p->input.h_0 = p->h_0;
    if (lstm) p->input.c_0 = p->c_0;
    if (config->num_layers > 1) p->input.dropout_mask = p->mask;
    p->targets.size = sizeof p->targets;
    p->targets.reduction = PYBPTT_SUM;
    if (tokens)
        p->targets.classes = p->classes;
    else
        p->targets.values = p->values;
    p->gradient = zeros(p->count);
    p->d_x = zeros(T * B * D);
    p->d_h_0 = zeros(p->units * B * P);
    p->d_c_0 = zeros(p->units * B * H);
    p->gradients.size = sizeof p->gradients;
    p->gradients.parameters = p->gradient;
    p->gradients.parameter_count = p->count;
    if (!tokens) p->gradients.input = p->d_x;
    p->gradients.h_0 = p->d_h_0;
    if (lstm) p->gradients.c_0 = p->d_c_0;
}

static void problem_free(problem* p) {
    pybptt_network_destroy(p->network);
    free(p->parameters), free(p->x), free(p->h_0), free(p->c_0), free(p->mask), free(p->values);
    free(p->gradient), free(p->d_x), free(p->d_h_0), free(p->d_c_0);
}

static double loss_of(const problem* p) {
    double loss = 0;
    CHECK_OK(pybptt_loss(p->network, &p->input, &p->targets, NULL, &loss));
    return loss;
}

/* Some entries of a gradient against (L(v + s) - L(v - s)) / 2 s. */
static void check_differences(const problem* p, double* values, const double* gradient, size_t count) {
    const double s = 1e-5;
    size_t i;
    for (i = 0; i < count; i += count / 12 + 1) {
        const double value = values[i];
        double above, below;
        values[i] = value + s;
        above = loss_of(p);
        values[i] = value - s;
        below = loss_of(p);
        values[i] = value;
        CHECK_CLOSE(gradient[i], (above - below) / (2 * s), 1e-8);
    }
}

static double gradients_of(problem* p, const pybptt_truncation* truncation, const pybptt_options* options) {
    double loss = 0;
    CHECK_OK(pybptt_loss_and_grad(p->network, &p->input, &p->targets, truncation, options, NULL, &p->gradients, &loss));
    return loss;
}

static void test_differences(void) {
    static const pybptt_config configs[] = {
        /* size, D, H, L, P, Q, clip, dtype, cell, phi, bidirectional, no_bias, peephole, coupled, reset_before, last_only */
        {0, D, H, 1, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_ELMAN, PYBPTT_TANH, 0, 0, 0, 0, 0, 0, 0},
        {0, D, H, 2, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_ELMAN, PYBPTT_SIGMOID, 1, 0, 0, 0, 0, 0, 0},
        {0, D, H, 1, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_ELMAN, PYBPTT_IDENTITY, 0, 1, 0, 0, 0, 1, 0},
        {0, D, H, 2, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_LSTM, 0, 0, 0, 0, 0, 0, 0, 0},
        {0, D, H, 1, 2, Q, 0, PYBPTT_FLOAT64, PYBPTT_LSTM, 0, 1, 0, 1, 0, 0, 0, 0},
        {0, D, H, 1, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_LSTM, 0, 0, 0, 1, 1, 0, 1, 0},
        {0, D, H, 1, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_GRU, 0, 1, 0, 0, 0, 0, 0, 0},
        {0, D, H, 2, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_GRU, 0, 0, 0, 0, 0, 1, 0, 0},
    };
    size_t i;
    for (i = 0; i < 4 * sizeof configs / sizeof *configs; ++i) {
        const int tokens = (int)(i & 1), ragged = (int)(i >> 1 & 1);
        problem p;
        double loss;
        problem_new(&p, &configs[i / 4], tokens, ragged);
        loss = gradients_of(&p, NULL, NULL);
        CHECK_CLOSE(loss, loss_of(&p), 1e-12);
        check_differences(&p, p.parameters, p.gradient, p.count);
        if (!tokens && !ragged) check_differences(&p, p.x, p.d_x, T * B * D);
        check_differences(&p, p.h_0, p.d_h_0, p.units * B * (p.width / (configs[i / 4].bidirectional ? 2 : 1)));
        if (p.input.c_0 != NULL) check_differences(&p, p.c_0, p.d_c_0, p.units * B * H);
        problem_free(&p);
    }
}

/* L of an Elman network on tokens, as it is written: h_t = tanh(W_ih e + b_ih + W_hh h_{t-1} + b_hh), o_t = W_ho h_t + b_o. */
static void test_loss_written_out(void) {
    const pybptt_config config = {0, D, H, 1, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_ELMAN, PYBPTT_TANH, 0, 0, 0, 0, 0, 0, 0};
    problem p;
    double expected = 0;
    size_t t, b, j, k;
    const double *w_ih, *w_hh, *b_ih, *b_hh, *w_ho, *b_o;
    problem_new(&p, &config, 1, 0);
    w_ih = p.parameters;
    w_hh = w_ih + H * D;
    b_ih = w_hh + H * H;
    b_hh = b_ih + H;
    w_ho = b_hh + H;
    b_o = w_ho + Q * H;
    CHECK(b_o + Q == p.parameters + p.count);
    for (b = 0; b < B; ++b) {
        double h[H], next[H];
        memcpy(h, p.h_0 + b * H, sizeof h);
        for (t = 0; t < T; ++t) {
            double o[Q], sum = 0;
            for (j = 0; j < H; ++j) {
                double z = w_ih[j * D + (size_t)p.tokens[t * B + b]] + b_ih[j] + b_hh[j];
                for (k = 0; k < H; ++k) z += w_hh[j * H + k] * h[k];
                next[j] = tanh(z);
            }
            memcpy(h, next, sizeof h);
            for (j = 0; j < Q; ++j) {
                o[j] = b_o[j];
                for (k = 0; k < H; ++k) o[j] += w_ho[j * H + k] * h[k];
                sum += exp(o[j]);
            }
            expected += log(sum) - o[p.classes[t * B + b]];
        }
    }
    CHECK_CLOSE(loss_of(&p), expected, 1e-12);
    p.targets.reduction = PYBPTT_MEAN;
    CHECK_CLOSE(loss_of(&p), expected / (T * B), 1e-13);
    problem_free(&p);
}

/* TBPTT: blocks are calls of their own from the state that is carried; k2 = 1 goes no step back; (1, T) is everything. */
static void test_truncation(void) {
    enum { K = 2 };
    const pybptt_config config = {0, D, H, 1, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_LSTM, 0, 0, 0, 0, 0, 0, 0, 0};
    pybptt_truncation truncation = {.size = sizeof truncation};
    problem p;
    double *sum, *full, h[B * H], c[B * H], factors[T * B];
    double loss, blocks = 0;
    size_t i, t;
    problem_new(&p, &config, 0, 0);
    full = zeros(p.count);
    sum = zeros(p.count);
    loss = gradients_of(&p, NULL, NULL);
    memcpy(full, p.gradient, p.count * sizeof *full);

    truncation.k1 = 1;
    truncation.k2 = T;
    CHECK_CLOSE(gradients_of(&p, &truncation, NULL), loss, 1e-12);
    for (i = 0; i < p.count; ++i) CHECK_CLOSE(p.gradient[i], full[i], 1e-12);

    truncation.k1 = truncation.k2 = K;
    CHECK_CLOSE(gradients_of(&p, &truncation, NULL), loss, 1e-12);
    memcpy(full, p.gradient, p.count * sizeof *full);
    memcpy(h, p.h_0, sizeof h);
    memcpy(c, p.c_0, sizeof c);
    for (t = 0; t < T; t += K) {
        pybptt_input input = p.input;
        pybptt_targets targets = p.targets;
        pybptt_gradients gradients = {.size = sizeof gradients};
        pybptt_output state = {.size = sizeof state};
        double next_h[B * H], next_c[B * H];
        input.steps = K;
        input.dense = p.x + t * B * D;
        input.h_0 = h;
        input.c_0 = c;
        targets.values = p.values + t * B * Q;
        gradients.parameters = p.gradient;
        gradients.parameter_count = p.count;
        state.h_n = next_h;
        state.c_n = next_c;
        CHECK_OK(pybptt_loss_and_grad(p.network, &input, &targets, NULL, NULL, &state, &gradients, &loss));
        memcpy(h, next_h, sizeof h);
        memcpy(c, next_c, sizeof c);
        blocks += loss;
        for (i = 0; i < p.count; ++i) sum[i] += p.gradient[i];
    }
    for (i = 0; i < p.count; ++i) CHECK_CLOSE(full[i], sum[i], 1e-12);
    truncation.k1 = truncation.k2 = 0;
    CHECK_CLOSE(blocks, gradients_of(&p, &truncation, NULL), 1e-12);

    /* xi_t = 0 at the first step of a block cuts there, too, but for h_0. */
    for (i = 0; i < T * B; ++i) factors[i] = i < B || i / B % K != 0 ? 1 : 0;
    truncation.factors = factors;
    gradients_of(&p, &truncation, NULL);
    for (i = 0; i < p.count; ++i) CHECK_CLOSE(p.gradient[i], full[i], 1e-12);
    truncation.factors = NULL;

    /* k2 < k1: the losses that count are at the boundaries 3 and 6. */
    truncation.k1 = 3;
    truncation.k2 = 1;
    loss = gradients_of(&p, &truncation, NULL);
    {
        pybptt_input input = p.input;
        pybptt_output output = {.size = sizeof output};
        double o[T * B * Q], expected = 0;
        output.output = o;
        CHECK_OK(pybptt_predict(p.network, &input, &output));
        for (i = 0; i < T * B * Q; ++i)
            if (i / (B * Q) % 3 == 2) expected += (o[i] - p.values[i]) * (o[i] - p.values[i]);
        CHECK_CLOSE(loss, expected, 1e-12);
    }
    free(full);
    free(sum);
    problem_free(&p);
}

static int count_calls(void* data, size_t done, size_t total) {
    CHECK(done <= total);
    ++*(int*)data;
    return 0;
}
static int stop(void* data, size_t done, size_t total) {
    (void)data, (void)done, (void)total;
    return 1;
}

/* A limit changes no bit; the function that is told of progress can end the call. */
static void test_memory_limit(void) {
    enum { LONG = 3000 };
    pybptt_config config = {sizeof config, D, H, 1, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_GRU, 0, 0, 0, 0, 0, 0, 0, 0};
    pybptt_memory_query query = {.size = sizeof query};
    pybptt_memory all = {.size = sizeof all}, least = {.size = sizeof least};
    pybptt_network* network = make(&config);
    const size_t count = pybptt_network_parameter_count(network);
    double *parameters = random_values(count), *x = random_values(LONG * D), *y = random_values(LONG * Q);
    double *plain = zeros(count), *limited = zeros(count), loss = 0, again = 0;
    pybptt_input input = {.size = sizeof input};
    pybptt_targets targets = {.size = sizeof targets};
    pybptt_gradients gradients = {.size = sizeof gradients};
    pybptt_options options = {.size = sizeof options};
    int calls = 0;
    query.steps = input.steps = LONG;
    query.batch = input.batch = 1;
    query.loss = PYBPTT_SQUARED_ERROR;
    CHECK_OK(pybptt_plan_memory(network, &query, &all));
    query.memory_limit = 1;
    CHECK_OK(pybptt_plan_memory(network, &query, &least));
    CHECK(least.bytes < all.bytes && least.runs > least.chunks && all.runs == all.chunks);
    input.parameters = parameters;
    input.parameter_count = gradients.parameter_count = count;
    input.dense = x;
    targets.values = y;
    gradients.parameters = plain;
    CHECK_OK(pybptt_loss_and_grad(network, &input, &targets, NULL, NULL, NULL, &gradients, &loss));
    gradients.parameters = limited;
    options.memory_limit = least.bytes;
    options.progress = count_calls;
    options.progress_data = &calls;
    CHECK_OK(pybptt_loss_and_grad(network, &input, &targets, NULL, &options, NULL, &gradients, &again));
    CHECK(calls > 1);
    CHECK(memcmp(&loss, &again, sizeof loss) == 0 && memcmp(plain, limited, count * sizeof *plain) == 0);
    options.memory_limit = least.bytes - 1;
    CHECK_FAILS(pybptt_loss_and_grad(network, &input, &targets, NULL, &options, NULL, &gradients, &again), PYBPTT_INVALID_ARGUMENT,
                "memory_limit: expected at least ");
    options.memory_limit = 0;
    options.progress = stop;
    CHECK_FAILS(pybptt_loss_and_grad(network, &input, &targets, NULL, &options, NULL, &gradients, &again), PYBPTT_STOPPED,
                "progress");
    free(parameters), free(x), free(y), free(plain), free(limited);
    pybptt_network_destroy(network);
}

/* forward and backward: with d_output = W_ho^T do_t they are loss_and_grad; packed weights and infer give the same outputs. */
static void test_layers(void) {
    pybptt_config config = {0, D, H, 2, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_LSTM, 0, 0, 0, 0, 0, 0, 0, 0};
    problem p;
    pybptt_network* layer;
    pybptt_tape* tape = NULL;
    pybptt_packed* packed = NULL;
    pybptt_output output = {.size = sizeof output};
    pybptt_upstream upstream = {.size = sizeof upstream};
    pybptt_gradients gradients = {.size = sizeof gradients};
    pybptt_truncation truncation = {.size = sizeof truncation};
    double *h, *again, *o, *d_h, *whole, *cells, *hidden;
    size_t count, i, j, q;
    const double* w_ho;
    problem_new(&p, &config, 0, 1);
    config.output_size = 0;
    layer = make(&config);
    count = pybptt_network_parameter_count(layer);
    CHECK(count + Q * H + Q == p.count);
    h = zeros(T * B * H), again = zeros(T * B * H), d_h = zeros(T * B * H), o = zeros(T * B * Q), cells = zeros(2 * T * B * H);
    hidden = zeros(2 * T * B * H);
    whole = zeros(p.count);

    p.input.parameter_count = count;
    output.output = h;
    output.cells = cells;
    CHECK_OK(pybptt_forward(layer, &p.input, NULL, &output, &tape));
    CHECK(pybptt_tape_bytes(tape) > 0);
    for (i = 0; i < T * B; ++i) /* h_t = o_t tanh(c_t) */
        for (j = 0; j < H; ++j) CHECK(fabs(h[i * H + j]) <= fabs(tanh(cells[(T * B + i) * H + j])));
    output.cells = NULL;
    output.output = again;
    CHECK_OK(pybptt_infer(layer, &p.input, &output));
    CHECK(memcmp(h, again, T * B * H * sizeof *h) == 0);
    CHECK_OK(pybptt_pack(layer, p.parameters, count, 0, &packed));
    p.input.parameters = NULL;
    p.input.packed = packed;
    memset(again, 0, T * B * H * sizeof *again);
    CHECK_OK(pybptt_infer(layer, &p.input, &output));
    for (i = 0; i < T * B * H; ++i) CHECK_CLOSE(h[i], again[i], 1e-14);
    p.input.packed = NULL;
    p.input.parameters = p.parameters;
    p.input.parameter_count = p.count;

    for (j = 0; j < 3; ++j) { /* all the way, in blocks, and with losses that are not reached */
        truncation.k1 = j == 2 ? 4 : 2 * j;
        truncation.k2 = 2 * (j != 0);
        gradients_of(&p, &truncation, NULL);
        memcpy(whole, p.gradient, p.count * sizeof *whole);
        output.output = o;
        CHECK_OK(pybptt_predict(p.network, &p.input, &output));
        w_ho = p.parameters + count;
        for (i = 0; i < T * B; ++i) {
            size_t k;
            for (k = 0; k < H; ++k) {
                d_h[i * H + k] = 0;
                if (i / B < (size_t)p.lengths[i % B]) /* do_t = 2 (o_t - y_t) */
                    for (q = 0; q < Q; ++q) d_h[i * H + k] += 2 * (o[i * Q + q] - p.values[i * Q + q]) * w_ho[q * H + k];
            }
        }
        upstream.d_output = d_h;
        upstream.dropout_mask = p.mask;
        gradients.parameters = p.gradient;
        gradients.parameter_count = count;
        gradients.hidden = hidden;
        CHECK_OK(pybptt_backward(tape, &upstream, &truncation, NULL, &gradients));
        for (i = 0; i < count; ++i) CHECK_CLOSE(p.gradient[i], whole[i], 1e-12);
        if (j == 0) /* dL/dh_T is the upstream's own */
            for (i = 0; i < H; ++i) CHECK_CLOSE(hidden[(T * B + (T - 1) * B) * H + i], d_h[(T - 1) * B * H + i], 1e-13);
    }
    pybptt_tape_destroy(tape);
    pybptt_packed_destroy(packed);
    pybptt_network_destroy(layer);
    free(h), free(again), free(o), free(d_h), free(whole), free(cells), free(hidden);
    problem_free(&p);
}

/* In float32 the same, to its precision; any number of threads gives the same bits. */
static void test_float32(void) {
    enum { H32 = 40, B32 = 33 };
    pybptt_config config = {sizeof config, D, H32, 1, 0, Q, 0, PYBPTT_FLOAT64, PYBPTT_GRU, 0, 0, 0, 0, 0, 0, 0, 0};
    pybptt_network *wide = make(&config), *narrow;
    const size_t count = pybptt_network_parameter_count(wide), size = 50 * B32 * D, outputs = 50 * B32 * Q;
    double *parameters = random_values(count), *x = random_values(size), *y = random_values(outputs), *d = zeros(count), loss,
           loss32;
    float *parameters32 = malloc(count * sizeof(float)), *x32 = malloc(size * sizeof(float)),
          *y32 = malloc(outputs * sizeof(float));
    float *one = malloc(count * sizeof(float)), *many = malloc(count * sizeof(float));
    pybptt_input input = {.size = sizeof input};
    pybptt_targets targets = {.size = sizeof targets};
    pybptt_gradients gradients = {.size = sizeof gradients};
    const int threads = pybptt_get_num_threads();
    size_t i;
    config.dtype = PYBPTT_FLOAT32;
    narrow = make(&config);
    for (i = 0; i < count; ++i) parameters[i] = parameters32[i] = (float)(0.3 * parameters[i]);
    for (i = 0; i < size; ++i) x[i] = x32[i] = (float)x[i];
    for (i = 0; i < outputs; ++i) y[i] = y32[i] = (float)y[i];
    input.steps = 50;
    input.batch = B32;
    input.parameter_count = gradients.parameter_count = count;
    input.parameters = parameters, input.dense = x, targets.values = y, gradients.parameters = d;
    CHECK_OK(pybptt_loss_and_grad(wide, &input, &targets, NULL, NULL, NULL, &gradients, &loss));
    input.parameters = parameters32, input.dense = x32, targets.values = y32, gradients.parameters = one;
    CHECK_OK(pybptt_set_num_threads(1));
    CHECK_OK(pybptt_loss_and_grad(narrow, &input, &targets, NULL, NULL, NULL, &gradients, &loss32));
    CHECK_OK(pybptt_set_num_threads(3));
    gradients.parameters = many;
    CHECK_OK(pybptt_loss_and_grad(narrow, &input, &targets, NULL, NULL, NULL, &gradients, &loss32));
    CHECK_OK(pybptt_set_num_threads(threads));
    CHECK(memcmp(one, many, count * sizeof *one) == 0);
    CHECK_CLOSE(loss32, loss, 1e-5 * fabs(loss));
    for (i = 0; i < count; ++i) CHECK_CLOSE(one[i], d[i], 1e-6);
    free(parameters), free(x), free(y), free(d), free(parameters32), free(x32), free(y32), free(one), free(many);
    pybptt_network_destroy(wide);
    pybptt_network_destroy(narrow);
}

static void test_parameters_and_scan(void) {
    const pybptt_config config = {0, D, H, 2, 2, Q, 0, PYBPTT_FLOAT32, PYBPTT_LSTM, 0, 1, 0, 1, 0, 0, 0, 0};
    static const char* const first[] = {"weight_ih_l0", "weight_hh_l0",       "bias_ih_l0",          "bias_hh_l0",
                                        "weight_hr_l0", "weight_peephole_l0", "weight_ih_l0_reverse"};
    pybptt_network* network = make(&config);
    const size_t arrays = pybptt_network_parameter_arrays(network);
    size_t i, offset = 0;
    pybptt_parameter parameter = {.size = sizeof parameter};
    const double b[] = {1, 2, 3}, c[] = {5, 0.5, -1}, a_0[] = {2}, d_a[] = {1, 1, 1};
    double a[3], d_b[3], d_c[3], d_a_0[1];
    CHECK(arrays == 4 * 6 + 2);
    for (i = 0; i < arrays; ++i) {
        CHECK_OK(pybptt_network_parameter(network, i, &parameter));
        CHECK(parameter.offset == offset);
        offset += parameter.rows * parameter.columns;
        if (i < 7) CHECK(strcmp(parameter.name, first[i]) == 0);
        if (i == 12) CHECK(strcmp(parameter.name, "weight_ih_l1") == 0 && parameter.rows == 4 * H && parameter.columns == 2 * 2);
    }
    CHECK(strcmp(parameter.name, "output.bias") == 0 && parameter.rows == Q);
    CHECK(offset == pybptt_network_parameter_count(network));
    pybptt_network_destroy(network);

    CHECK_OK(pybptt_linear_scan(PYBPTT_FLOAT64, 3, 1, b, c, a_0, a)); /* 1 + 5 * 2 = 11, 2 + 0.5 * 11 = 7.5, 3 - 7.5 = -4.5 */
    CHECK_CLOSE(a[0], 11, 0);
    CHECK_CLOSE(a[1], 7.5, 0);
    CHECK_CLOSE(a[2], -4.5, 0);
    CHECK_OK(pybptt_linear_scan_backward(PYBPTT_FLOAT64, 3, 1, d_a, c, a, a_0, d_b, d_c, d_a_0));
    CHECK_CLOSE(d_b[2], 1, 0); /* 1, 1 + (-1) 1 = 0, 1 + 0.5 * 0 = 1 */
    CHECK_CLOSE(d_b[1], 0, 0);
    CHECK_CLOSE(d_b[0], 1, 0);
    CHECK_CLOSE(d_c[2], 7.5, 0);
    CHECK_CLOSE(d_c[0], 2, 0);
    CHECK_CLOSE(d_a_0[0], 5, 0);
}

void test_values(void) {
    test_loss_written_out();
    test_differences();
    test_truncation();
    test_memory_limit();
    test_layers();
    test_float32();
    test_parameters_and_scan();
}
