/* Backpropagation through time in plain C99, written from docs/porting.md and checked with vectors/: one layer of Elman's
 * cell, LSTM or GRU, output layer and loss, the sweep, truncation; and the textbook's two loops. It is naive on purpose:
 * one sequence after another, one product of a matrix and a vector after another, everything kept.
 *
 *     cc -std=c99 -O2 -o bptt examples/native/bptt.c -lm
 *     ./bptt vectors/[0-9]*.json    compares every value of the cases that it can run
 *     ./bptt time                   the textbook's two loops beside the sweep
 *
 * Arrays are (T + 1, B, N) where there is a step 0, else (T, B, N); at(a, t, b) is a row of N. Names as in docs/bptt.md. */
#include <time.h>

#include "vectors.h"

/* ---- Products ---------------------------------------------------------------------------------------------- */

/* y += W x, W (rows, cols) */
static void add_product(double* y, const double* W, const double* x, int rows, int cols) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) y[i] += W[i * cols + j] * x[j];
}

/* y += W^T d */
static void add_transposed(double* y, const double* W, const double* d, int rows, int cols) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) y[j] += W[i * cols + j] * d[i];
}

/* dW += d x^T */
static void add_outer(double* dW, const double* d, const double* x, int rows, int cols) {
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) dW[i * cols + j] += d[i] * x[j];
}

static void add(double* y, const double* x, int count) {
    for (int i = 0; i < count; i++) y[i] += x[i];
}

/* ---- The network ------------------------------------------------------------------------------------------------------ */

enum cell { RNN, LSTM, GRU };
enum phi { TANH, RELU, SIGMOID, IDENTITY };
enum { GATES = 4 };

struct parameters { /* and, of the same shapes, their gradients */
    double *W_ih, *W_hh, *b_ih, *b_hh, *W_ho, *b_o;
};

struct network {
    enum cell cell;
    enum phi phi;      /* of RNN */
    int reset_after;   /* of GRU */
    int T, B, D, H, Q; /* steps, batch, inputs, states, outputs (0: no output layer) */
    int tokens;        /* x is (T, B): columns of W_ih */
    struct parameters w, d;
    const double* x; /* (T, B, D) */
    /* Forward: step 0 is the initial state. z and a are pre-activations and activations of each gate. */
    double *h, *c, *z[GATES], *a[GATES], *s;
    /* Backward: what a window finds at each step; dz of a gate is what its product by W_ih^T reads. */
    double *dl, *dh, *dc, *dz[GATES], *ds, *to_h, *to_c, *window_dx;
    /* What enters h_t and c_t directly, of all windows. */
    double *d_output, *dl_c;
    /* Sums over windows. */
    double *dx, *hidden, *d_h0, *d_c0;
};

static int gates(const struct network* n) { return n->cell == RNN ? 1 : n->cell == LSTM ? 4 : 3; }

static double* at(const struct network* n, double* a, int t, int b) {
    return a + ((size_t)t * (size_t)n->B + (size_t)b) * (size_t)n->H;
}

static double sigmoid(double z) { return z >= 0 ? 1 / (1 + exp(-z)) : exp(z) / (1 + exp(z)); }

static double phi_of(enum phi phi, double z) {
    return phi == TANH ? tanh(z) : phi == RELU ? (z > 0 ? z : 0) : phi == SIGMOID ? sigmoid(z) : z;
}

/* phi'(z), written through h = phi(z) */
static double slope(enum phi phi, double h) {
    return phi == TANH ? 1 - h * h : phi == RELU ? (h > 0) : phi == SIGMOID ? h * (1 - h) : 1;
}

static void allocate(struct network* n) {
    const size_t N = (size_t)n->H, states = (size_t)(n->T + 1) * (size_t)n->B * N, G = (size_t)gates(n), D = (size_t)n->D,
                 Q = (size_t)n->Q;
    double** of_states[] = {&n->h,  &n->c,  &n->s,    &n->dl,   &n->d_output, &n->dl_c, &n->dh,
                            &n->dc, &n->ds, &n->to_h, &n->to_c, &n->hidden,   &n->d_h0, &n->d_c0};
    for (size_t i = 0; i < sizeof of_states / sizeof *of_states; i++) *of_states[i] = zeros(states);
    for (int k = 0; k < gates(n); k++) n->z[k] = zeros(states), n->a[k] = zeros(states), n->dz[k] = zeros(states);
    n->dx = zeros((size_t)n->T * (size_t)n->B * D);
    n->window_dx = zeros((size_t)n->T * (size_t)n->B * D);
    for (int k = 0; k < 2; k++) {
        struct parameters* p = k ? &n->d : &n->w;
        p->W_ih = zeros(G * N * D), p->W_hh = zeros(G * N * N), p->b_ih = zeros(G * N), p->b_hh = zeros(G * N);
        p->W_ho = zeros(Q * N), p->b_o = zeros(Q);
    }
}

/* z += W_ih x_t: of all gates */
static void add_input(const struct network* n, double* z, int t, int b) {
    const int GH = gates(n) * n->H, row = (t - 1) * n->B + b;
    if (!n->tokens) {
        add_product(z, n->w.W_ih, n->x + row * n->D, GH, n->D);
        return;
    }
    for (int i = 0; i < GH; i++) z[i] += n->w.W_ih[i * n->D + (int)n->x[row]]; /* x_t is one-hot: a column */
}

static void forward(struct network* n) {
    const int H = n->H, GH = gates(n) * H;
    double *from_x = zeros((size_t)GH), *from_h = zeros((size_t)GH);
    for (int t = 1; t <= n->T; t++)
        for (int b = 0; b < n->B; b++) {
            const double *h_prev = at(n, n->h, t - 1, b), *c_prev = at(n, n->c, t - 1, b);
            double *h = at(n, n->h, t, b), *c = at(n, n->c, t, b), *s = at(n, n->s, t, b), *z[GATES], *a[GATES];
            for (int k = 0; k < gates(n); k++) z[k] = at(n, n->z[k], t, b), a[k] = at(n, n->a[k], t, b);
            memcpy(from_x, n->w.b_ih, (size_t)GH * sizeof(double));
            memcpy(from_h, n->w.b_hh, (size_t)GH * sizeof(double));
            add_input(n, from_x, t, b);                    /* W_ih x_t + b_ih */
            add_product(from_h, n->w.W_hh, h_prev, GH, H); /* W_hh h_{t-1} + b_hh */
            for (int k = 0; k < gates(n); k++)
                for (int j = 0; j < H; j++) z[k][j] = from_x[k * H + j] + from_h[k * H + j]; /* z_t */
            if (n->cell == RNN)
                for (int j = 0; j < H; j++) h[j] = phi_of(n->phi, z[0][j]); /* h_t = phi(z_t) */
            if (n->cell == LSTM)
                for (int j = 0; j < H; j++) {
                    const double i = a[0][j] = sigmoid(z[0][j]), f = a[1][j] = sigmoid(z[1][j]);
                    const double g = a[2][j] = tanh(z[2][j]), o = a[3][j] = sigmoid(z[3][j]);
                    c[j] = f * c_prev[j] + i * g; /* c_t = f c_{t-1} + i g */
                    h[j] = o * tanh(c[j]);        /* h_t = o tanh(c_t) */
                }
            if (n->cell == GRU) {
                for (int j = 0; j < H; j++) {
                    a[0][j] = sigmoid(z[0][j]);                                      /* r */
                    a[1][j] = sigmoid(z[1][j]);                                      /* z */
                    s[j] = n->reset_after ? from_h[2 * H + j] : a[0][j] * h_prev[j]; /* W_hn h_{t-1} + b_hn; r h_{t-1} */
                }
                double* to_n = from_h + 2 * H; /* what the recurrence adds to z_n: r s; W_hn s + b_hn */
                for (int j = 0; j < H; j++) to_n[j] = n->reset_after ? a[0][j] * s[j] : n->w.b_hh[2 * H + j];
                if (!n->reset_after) add_product(to_n, n->w.W_hh + 2 * H * H, s, H, H);
                for (int j = 0; j < H; j++) {
                    z[2][j] = from_x[2 * H + j] + to_n[j];
                    const double g = a[1][j], new = a[2][j] = tanh(z[2][j]);
                    h[j] = (1 - g) * new + g * h_prev[j]; /* h_t = (1 - z) n + z h_{t-1} */
                }
            }
        }
}

/* Step t of sequence b back: dh_t, dc_t to dz_t, to_h, to_c. */
static void step_back(struct network* n, int t, int b) {
    const int H = n->H;
    const double *h = at(n, n->h, t, b), *h_prev = at(n, n->h, t - 1, b), *c = at(n, n->c, t, b), *c_prev = at(n, n->c, t - 1, b);
    const double *s = at(n, n->s, t, b), *dh = at(n, n->dh, t, b), *a[GATES];
    double *dc = at(n, n->dc, t, b), *ds = at(n, n->ds, t, b), *to_h = at(n, n->to_h, t, b), *to_c = at(n, n->to_c, t, b),
           *dz[GATES];
    for (int k = 0; k < gates(n); k++) a[k] = at(n, n->a[k], t, b), dz[k] = at(n, n->dz[k], t, b);
    if (n->cell == RNN)
        for (int j = 0; j < H; j++) dz[0][j] = slope(n->phi, h[j]) * dh[j]; /* dz_t = phi'(z_t) dh_t */
    if (n->cell == LSTM)
        for (int j = 0; j < H; j++) {
            const double i = a[0][j], f = a[1][j], g = a[2][j], o = a[3][j], tanh_c = tanh(c[j]);
            dc[j] += dh[j] * o * (1 - tanh_c * tanh_c); /* dc_t = carry + dh_t o tanh'(c_t) */
            dz[0][j] = dc[j] * g * i * (1 - i);
            dz[1][j] = dc[j] * c_prev[j] * f * (1 - f);
            dz[2][j] = dc[j] * i * (1 - g * g);
            dz[3][j] = dh[j] * tanh_c * o * (1 - o);
            to_c[j] = dc[j] * f;
        }
    if (n->cell == GRU) {
        const double* W_hn = n->w.W_hh + 2 * H * H;
        for (int j = 0; j < H; j++) {
            const double z = a[1][j], new = a[2][j];
            dz[2][j] = dh[j] * (1 - z) * (1 - new * new);
            dz[1][j] = dh[j] * (h_prev[j] - new) * z * (1 - z);
            to_h[j] = z * dh[j];
        }
        if (!n->reset_after) add_transposed(ds, W_hn, dz[2], H, H); /* ds = W_hn^T dz_n */
        for (int j = 0; j < H; j++) {
            const double r = a[0][j];
            if (n->reset_after) ds[j] = r * dz[2][j];
            dz[0][j] = (n->reset_after ? dz[2][j] * s[j] : ds[j] * h_prev[j]) * r * (1 - r);
            if (!n->reset_after) to_h[j] += r * ds[j];
        }
        if (n->reset_after) add_transposed(to_h, W_hn, ds, H, H); /* W_hn^T ds */
    }
    for (int k = 0; k < (n->cell == GRU ? 2 : gates(n)); k++)
        add_transposed(to_h, n->w.W_hh + k * H * H, dz[k], H, H); /* W_hh^T dz_t */
    for (int k = 0; k < gates(n); k++)
        if (!n->tokens)
            add_transposed(n->window_dx + ((t - 1) * n->B + b) * n->D, n->w.W_ih + k * H * n->D, dz[k], H,
                           n->D); /* dx_t = W_ih^T dz_t */
}

/* What truncates a sweep, and clips it. */
struct limits {
    int first, last, begin; /* the losses that go back, and the step beyond which none of them goes */
    const double* xi;       /* (T, B), or NULL */
    int clip_norm, clip_value;
    double limit;
};

static void clip(double* dh, int H, const struct limits* limits) {
    double squares = 0;
    for (int j = 0; j < H; j++) squares += dh[j] * dh[j];
    const double norm = sqrt(squares), l = limits->limit;
    for (int j = 0; j < H; j++) {
        if (limits->clip_norm && norm > l) dh[j] *= l / norm; /* dh_t <- dh_t min(1, limit / |dh_t|) */
        if (limits->clip_value) dh[j] = dh[j] > l ? l : dh[j] < -l ? -l : dh[j];
    }
}

/* One pass back in time: dh_t = dl_t + what step t + 1 sends. What enters the final states, d_h and d_c (B, H), is at T. */
static void sweep(struct network* n, const struct limits* limits, const double* d_h, const double* d_c) {
    const size_t states = (size_t)(n->T + 1) * (size_t)n->B * (size_t)n->H;
    double* of_window[] = {n->dl, n->dh, n->dc, n->ds, n->to_h, n->to_c, n->dz[0], n->dz[1], n->dz[2], n->dz[3]};
    for (size_t i = 0; i < 6 + (size_t)gates(n); i++) memset(of_window[i], 0, states * sizeof(double));
    memset(n->window_dx, 0, (size_t)(n->T * n->B * n->D) * sizeof(double));
    for (int t = limits->last; t >= limits->begin; t--)
        for (int b = 0; b < n->B; b++) {
            double *dh = at(n, n->dh, t, b), *dc = at(n, n->dc, t, b), *to_h = at(n, n->to_h, t, b), *to_c = at(n, n->to_c, t, b);
            if (t >= limits->first) add(at(n, n->dl, t, b), at(n, n->d_output, t, b), n->H), add(dc, at(n, n->dl_c, t, b), n->H);
            add(dh, at(n, n->dl, t, b), n->H);
            if (t < limits->last) add(dh, at(n, n->to_h, t + 1, b), n->H), add(dc, at(n, n->to_c, t + 1, b), n->H);
            if (t == n->T) add(dh, d_h + b * n->H, n->H), add(dc, d_c + b * n->H, n->H);
            clip(dh, n->H, limits);
            step_back(n, t, b);
            /* Nothing goes past a window's first step; h_0 is before step 1. */
            const double xi = t == limits->begin && t > 1 ? 0 : limits->xi ? limits->xi[(t - 1) * n->B + b] : 1;
            for (int j = 0; j < n->H; j++) to_h[j] *= xi, to_c[j] *= xi;
        }
}

/* dW = sum_t dz_t v_t^T, and what else is a sum over windows. A fast program makes one product of each sum. */
static void add_sums(struct network* n) {
    const int H = n->H, D = n->D;
    for (int t = 1; t <= n->T; t++)
        for (int b = 0; b < n->B; b++)
            for (int k = 0; k < gates(n); k++) {
                const int new = n->cell == GRU && k == 2, row = (t - 1) * n->B + b;
                const double *dz = at(n, n->dz[k], t, b), *h_prev = at(n, n->h, t - 1, b);
                const double* dz_h = new && n->reset_after ? at(n, n->ds, t, b) : dz;  /* what W_hh's product receives */
                const double* v = new && !n->reset_after ? at(n, n->s, t, b) : h_prev; /* and what it has read */
                add_outer(n->d.W_hh + k * H * H, dz_h, v, H, H);
                if (!n->tokens) add_outer(n->d.W_ih + k * H * D, dz, n->x + row * D, H, D);
                for (int i = 0; n->tokens && i < H; i++) n->d.W_ih[(k * H + i) * D + (int)n->x[row]] += dz[i];
                add(n->d.b_ih + k * H, dz, H);
                add(n->d.b_hh + k * H, dz_h, H);
            }
    add(n->dx, n->window_dx, n->T * n->B * D);
    add(n->hidden, n->dh + n->B * H, n->T * n->B * H);
    add(n->d_h0, n->to_h + n->B * H, n->B * H); /* what step 1 has sent */
    add(n->d_c0, n->to_c + n->B * H, n->B * H);
}

/* Output layer and loss of one state, times scale: adds to dW_ho and db_o, writes o, do and dl, returns l. */
static double output_loss(struct network* n, const double* h, const double* y, int classes, double scale, double* o, double* d_o,
                          double* dl) {
    const int Q = n->Q;
    double l = 0, largest = -HUGE_VAL, sum = 0;
    memcpy(o, n->w.b_o, (size_t)Q * sizeof(double));
    add_product(o, n->w.W_ho, h, Q, n->H); /* o_t = W_ho h_t + b_o */
    for (int q = 0; q < Q; q++) largest = o[q] > largest ? o[q] : largest;
    for (int q = 0; q < Q; q++) sum += exp(o[q] - largest);
    for (int q = 0; q < Q; q++) {
        const double p = exp(o[q] - largest) / sum, error = classes ? 0 : o[q] - y[q];
        d_o[q] = scale * (classes ? p - (q == (int)*y) : 2 * error); /* p_q - [q = y]; 2 (o_q - y_q) */
        l += error * error;
    }
    if (classes) l = log(sum) - (o[(int)*y] - largest); /* -log p_y */
    add_outer(n->d.W_ho, d_o, h, Q, n->H);
    add(n->d.b_o, d_o, Q);
    add_transposed(dl, n->w.W_ho, d_o, Q, n->H); /* dl_t = W_ho^T do_t */
    return scale * l;
}

/* The textbook's function on one sequence of tokens, its two loops as they stand. dz, if it is not NULL, is (T, T, H). */
static void two_loops(struct network* n, const double* y, int truncate, double* loss, double* o, double* d_o, double* dz) {
    const int H = n->H, T = n->T;
    double *dz_r = zeros((size_t)H), *down = zeros((size_t)H);
    forward(n);
    for (int t = 1; t <= T; t++) { /* the loss of step t */
        double* dl = n->d_output + t * H;
        *loss += output_loss(n, n->h + t * H, y + t - 1, 1, 1, o + (t - 1) * n->Q, d_o + (t - 1) * n->Q, dl);
        memcpy(down, dl, (size_t)H * sizeof(double));
        for (int r = t; r >= 1 && r >= t - truncate; r--) {                               /* back through step r */
            for (int j = 0; j < H; j++) dz_r[j] = slope(TANH, n->h[r * H + j]) * down[j]; /* dL_t/dz_r */
            add_outer(n->d.W_hh, dz_r, n->h + (r - 1) * H, H, H);
            for (int i = 0; i < H; i++) n->d.W_ih[i * n->D + (int)n->x[r - 1]] += dz_r[i];
            if (dz) memcpy(dz + ((t - 1) * T + r - 1) * H, dz_r, (size_t)H * sizeof(double));
            memset(down, 0, (size_t)H * sizeof(double));
            add_transposed(down, n->w.W_hh, dz_r, H, H); /* dL_t/dh_{r-1} = W_hh^T dL_t/dz_r */
        }
    }
}

/* ---- The vectors ------------------------------------------------------------------------------------------------------ */

/* In the order in which a step computes them. */
static void compare_steps(struct json* run, const struct network* n, int backward) {
    static const char* const letters[] = {"", "ifgo", "rzn"};
    const struct {
        const char* name;
        const double* array;
    } before[] = {{"dl", n->dl}, {"dh", n->dh}, {"dc", n->dc}}, after_gates[] = {{"c", n->c}, {"h", n->h}},
      after_dz[] = {{"to_h", n->to_h}, {"to_c", n->to_c}};
    const size_t first = (size_t)(n->B * n->H), count = (size_t)n->T * first; /* step 1, and all from it on */
    json_get(run, "name");
    compare_from(n->T, backward);
    for (int i = 0; i < 3 && backward; i++) compare(run, before[i].name, before[i].array + first, count);
    for (int i = 0; i < gates(n); i++) {
        const int k = backward ? gates(n) - 1 - i : i; /* back through the GRU's n before z and r */
        char z[] = "z_?", dz[] = "dz_?", a[] = "?";
        z[2] = dz[3] = a[0] = letters[n->cell][k];
        if (n->cell == RNN) z[1] = dz[2] = 0;
        if (!backward && k == 2) compare(run, "s", n->s + first, count);
        compare(run, backward ? dz : z, (backward ? n->dz : n->z)[k] + first, count);
        if (backward && k == 2) compare(run, "ds", n->ds + first, count);
        if (n->cell != RNN && !backward) compare(run, a, n->a[k] + first, count);
    }
    for (int i = 0; i < 2; i++)
        backward ? compare(run, after_dz[i].name, after_dz[i].array + first, count)
                 : compare(run, after_gates[i].name, after_gates[i].array + first, count);
    if (backward) compare(run, "dx", n->window_dx, (size_t)(n->T * n->B * n->D));
    compare_from(0, 0);
}

static int can_run(struct json* c) {
    struct json *sizes = json_get(c, "sizes"), *options = json_get(c, "options"), *given = json_get(c, "given");
    for (size_t i = 0; i < options->count; i++)
        if (strcmp(options->keys[i], "nonlinearity") && strcmp(options->keys[i], "reset_after")) return 0;
    return size_of(sizes, "L") == 1 && size_of(sizes, "K") == 1 && !json_get(given, "lengths");
}

static void run_network(struct json* c) {
    struct json *sizes = json_get(c, "sizes"), *options = json_get(c, "options"), *given = json_get(c, "given"),
                *loss = json_get(c, "loss");
    struct json *is_after = json_get(options, "reset_after"), *xs = json_get(given, "x"), *tbptt = json_get(c, "tbptt"),
                *clipping = json_get(c, "clip_hidden");
    struct json *forwards = json_get(c, "forward"), *backwards = json_get(c, "backward"), *top;
    struct network net = {0}, *n = &net;
    n->cell = is(c, "cell", "lstm") ? LSTM : is(c, "cell", "gru") ? GRU : RNN;
    n->phi = is(options, "nonlinearity", "relu")       ? RELU
             : is(options, "nonlinearity", "sigmoid")  ? SIGMOID
             : is(options, "nonlinearity", "identity") ? IDENTITY
                                                       : TANH;
    n->reset_after = !is_after || is_after->kind == JSON_TRUE;
    n->T = size_of(sizes, "T"), n->B = size_of(sizes, "B"), n->D = size_of(sizes, "D"), n->H = size_of(sizes, "H"),
    n->Q = size_of(sizes, "Q");
    allocate(n);
    const int T = n->T, B = n->B, H = n->H, Q = n->Q;
    const size_t GH = (size_t)(gates(n) * H), D = (size_t)n->D, BH = (size_t)(B * H), TB = (size_t)(T * B);
    n->tokens = json_numbers(xs, NULL) == TB && xs->parts[0].parts[0].kind == JSON_NUMBER;
    n->x = numbers(xs, n->tokens ? TB : TB * D);
    const struct {
        const char* name;
        double *value, *gradient;
        size_t count;
    } parameters[] = {{"weight_ih_l0", n->w.W_ih, n->d.W_ih, GH * D},
                      {"weight_hh_l0", n->w.W_hh, n->d.W_hh, GH * (size_t)H},
                      {"bias_ih_l0", n->w.b_ih, n->d.b_ih, GH},
                      {"bias_hh_l0", n->w.b_hh, n->d.b_hh, GH},
                      {"output.weight", n->w.W_ho, n->d.W_ho, (size_t)(Q * H)},
                      {"output.bias", n->w.b_o, n->d.b_o, (size_t)Q}};
    for (size_t i = 0; i < 6; i++)
        take(json_get(given, "parameters"), parameters[i].name, parameters[i].value, parameters[i].count);
    take(json_get(given, "state"), "h", n->h, BH);
    take(json_get(given, "state"), "c", n->c, BH);

    forward(n);
    compare_steps(&json_get(forwards, "runs")->parts[0], n, 0);
    compare(forwards, "output", n->h + BH, TB * (size_t)H);
    compare(json_get(forwards, "state"), "h", n->h + (size_t)T * BH, BH);
    compare(json_get(forwards, "state"), "c", n->c + (size_t)T * BH, BH);

    const int k1 = tbptt ? size_of(tbptt, "k1") : T, k2 = tbptt ? size_of(tbptt, "k2") : T, last_only = is(loss, "last_only", NULL);
    double *d_h = zeros(BH), *d_c = zeros(BH), value = 0, unreached = 0;
    take(given, "d_output", n->d_output + BH, TB * (size_t)H);
    take(given, "d_cells", n->dl_c + BH, TB * (size_t)H);
    take(json_get(given, "d_state"), "h", d_h, BH);
    take(json_get(given, "d_state"), "c", d_c, BH);
    if (loss) {
        const int classes = is(loss, "kind", "cross_entropy"), steps = last_only ? 1 : T;
        const size_t rows = (size_t)(steps * B), targets = rows * (size_t)(classes ? 1 : Q);
        const double *y = numbers(json_get(given, "y"), targets), scale = is(loss, "reduction", "mean") ? 1 / (double)targets : 1;
        double *o = zeros(rows * (size_t)Q), *d_o = zeros(rows * (size_t)Q);
        for (int t = 1; t <= steps; t++) {
            const int end = (t + k1 - 1) / k1 * k1 < T ? (t + k1 - 1) / k1 * k1 : T; /* e(t), the boundary that t belongs to */
            for (int b = 0; b < B; b++) {
                const int row = (t - 1) * B + b, of = row * Q;
                if (!last_only && t <= end - k2)
                    unreached++;
                else
                    value += output_loss(n, at(n, n->h, last_only ? T : t, b), y + (classes ? row : of), classes, scale, o + of,
                                         d_o + of, last_only ? d_h + b * H : at(n, n->d_output, t, b));
            }
        }
        compare(forwards, "o", o, rows * (size_t)Q);
        compare(forwards, "loss", &value, 1);
        compare(backwards, "do", d_o, rows * (size_t)Q);
        compare(backwards, "d_output", n->d_output + BH, TB * (size_t)H);
        compare(json_get(backwards, "d_state"), "h", d_h, BH);
        compare(json_get(backwards, "d_state"), "c", d_c, BH);
        compare(backwards, "unreached", &unreached, 1);
    }

    struct limits limits = {.clip_norm = is(clipping, "by", "norm"), .clip_value = is(clipping, "by", "value")};
    if (clipping) take(clipping, "limit", &limits.limit, 1);
    if (json_get(given, "xi")) limits.xi = numbers(json_get(given, "xi"), TB);
    struct json* sweeps = json_get(backwards, "sweeps");
    for (size_t w = 0; w < sweeps->count; w++) { /* a sweep for each window */
        const int before = (int)w * k1;
        limits.last = before + k1 < T ? before + k1 : T;
        limits.begin = limits.last - k2 + 1 > 1 ? limits.last - k2 + 1 : 1;
        limits.first = before + 1 > limits.begin ? before + 1 : limits.begin;
        sweep(n, &limits, d_h, d_c);
        add_sums(n);
        compare(&sweeps->parts[w], "losses", (double[]){limits.first, limits.last}, 2);
        compare(&sweeps->parts[w], "uses", (double[]){limits.begin, limits.last}, 2);
        compare_steps(&json_get(&sweeps->parts[w], "runs")->parts[0], n, 1);
    }
    for (size_t i = 0; i < 6; i++)
        compare(json_get(backwards, "parameters"), parameters[i].name, parameters[i].gradient, parameters[i].count);
    compare(backwards, "input", n->dx, TB * D);
    compare(backwards, "hidden", n->hidden, TB * (size_t)H);
    top = json_get(backwards, "state");
    compare(top, "h", n->d_h0, BH);
    compare(top, "c", n->d_c0, BH);
}

static void run_textbook(struct json* c) {
    struct json *sizes = json_get(c, "sizes"), *given = json_get(c, "given"), *truncate = json_get(given, "bptt_truncate");
    struct json *forwards = json_get(c, "forward"), *backwards = json_get(c, "backward");
    struct network net = {.tokens = 1,
                          .B = 1,
                          .T = size_of(sizes, "T"),
                          .D = size_of(sizes, "D"),
                          .H = size_of(sizes, "H"),
                          .Q = size_of(sizes, "Q")},
                   *n = &net;
    allocate(n);
    const size_t T = (size_t)n->T, D = (size_t)n->D, H = (size_t)n->H, Q = (size_t)n->Q;
    take(given, "U", n->w.W_ih, H * D);
    take(given, "W", n->w.W_hh, H * H);
    take(given, "V", n->w.W_ho, Q * H);
    n->x = numbers(json_get(given, "x"), T);
    double *o = zeros(T * Q), *d_o = zeros(T * Q), *dz = zeros(T * T * H), loss = 0;
    const double* y = numbers(json_get(given, "y"), T);
    two_loops(n, y, truncate->kind == JSON_NULL ? n->T : (int)truncate->number, &loss, o, d_o, dz);
    compare(forwards, "s", n->h + H, T * H);
    compare(forwards, "o", o, T * Q);
    compare(forwards, "loss", &loss, 1);
    compare(backwards, "do", d_o, T * Q);
    compare(backwards, "ds", n->d_output + H, T * H);
    compare(backwards, "dz", dz, T * T * H);
    compare(backwards, "dLdU", n->d.W_ih, H * D);
    compare(backwards, "dLdV", n->d.W_ho, Q * H);
    compare(backwards, "dLdW", n->d.W_hh, H * H);
}

/* a_t = b_t + c_t a_{t-1}, elementwise, and back */
static void run_linear_scan(struct json* c) {
    struct json *sizes = json_get(c, "sizes"), *given = json_get(c, "given"), *backwards = json_get(c, "backward");
    const int T = size_of(sizes, "T"), N = size_of(sizes, "N"), count = T * N;
    const double *b = numbers(json_get(given, "b"), (size_t)count), *factor = numbers(json_get(given, "c"), (size_t)count),
                 *d_a = numbers(json_get(given, "d_a"), (size_t)count);
    double *a = zeros((size_t)(count + N)), *d_b = zeros((size_t)(count + N)), *d_c = zeros((size_t)count),
           *d_a0 = zeros((size_t)N);
    take(given, "a0", a, (size_t)N); /* a[i] is a_{t-1} of what b[i] is b_t of */
    for (int i = 0; i < count; i++) a[i + N] = b[i] + factor[i] * a[i];
    for (int i = count - 1; i >= 0; i--) {
        d_b[i] = d_a[i] + (i + N < count ? factor[i + N] * d_b[i + N] : 0); /* dL/db_t = da_t + c_{t+1} dL/db_{t+1} */
        d_c[i] = d_b[i] * a[i];
    }
    for (int i = 0; i < N; i++) d_a0[i] = factor[i] * d_b[i];
    compare(json_get(c, "forward"), "a", a + N, (size_t)count);
    compare(backwards, "d_b", d_b, (size_t)count);
    compare(backwards, "d_c", d_c, (size_t)count);
    compare(backwards, "d_a0", d_a0, (size_t)N);
}

/* S_t = (1 + W S_{t-1})^2: dS_T/dW carried forward, and dS_T/dS_t carried back */
static void run_recurrence(struct json* c) {
    struct json *given = json_get(c, "given"), *forwards = json_get(c, "forward"), *backwards = json_get(c, "backward");
    const size_t T = (size_t)size_of(json_get(c, "sizes"), "T");
    double *s = zeros(T + 1), *by_w = zeros(T), *by_s = zeros(T), *ds_dw = zeros(T + 1), *d_s = zeros(T + 1), w, d_w = 0;
    take(given, "w", &w, 1);
    take(given, "s0", s, 1);
    for (size_t t = 0; t < T; t++) {
        s[t + 1] = (1 + w * s[t]) * (1 + w * s[t]);
        by_w[t] = 2 * (1 + w * s[t]) * s[t];
        by_s[t] = 2 * (1 + w * s[t]) * w;
        ds_dw[t + 1] = by_w[t] + by_s[t] * ds_dw[t];
    }
    d_s[T] = 1;
    for (size_t t = T; t > 0; t--) {
        d_w += d_s[t] * by_w[t - 1];
        d_s[t - 1] = d_s[t] * by_s[t - 1];
    }
    compare(forwards, "s", s + 1, T);
    compare(forwards, "df_dw", by_w, T);
    compare(forwards, "df_ds", by_s, T);
    compare(forwards, "ds_dw", ds_dw + 1, T);
    compare(backwards, "d_s", d_s + 1, T);
    compare(backwards, "d_s0", d_s, 1);
    compare(backwards, "d_w", &d_w, 1);
}

static int run_file(const char* path) {
    struct json file = json_file(path), *cases = json_get(&file, "cases");
    const char* slash = strrchr(path, '/');
    if (!cases) {
        fprintf(stderr, "%s: these are no test vectors\n", path);
        json_free(&file);
        return 1;
    }
    int run = 0, failed = 0;
    table.file = slash ? slash + 1 : path, table.compared = 0, table.worst = 0;
    for (size_t i = 0; i < cases->count; i++) {
        struct json* c = &cases->parts[i];
        table.name = json_get(c, "name")->text, table.wrong = 0;
        if (is(c, "kind", "network")) {
            if (!can_run(c)) continue;
            run_network(c);
        } else if (is(c, "kind", "textbook"))
            run_textbook(c);
        else if (is(c, "kind", "linear_scan"))
            run_linear_scan(c);
        else
            run_recurrence(c);
        run++;
        if (table.wrong) printf("%s, %s: the first that is wrong is %s", table.file, table.name, table.first);
        if (table.wrong) printf(table.step ? ", at step %d\n" : "\n", table.step);
        failed += table.wrong > 0 || !all_seen(json_get(c, "forward"), "forward") || !all_seen(json_get(c, "backward"), "backward");
        forget();
    }
    printf("%-30s%4d of %2d%10d%14.1e%s\n", table.file, run, (int)cases->count, table.compared, table.worst,
           failed ? "  WRONG" : "");
    json_free(&file);
    return failed;
}

/* ---- Time ------------------------------------------------------------------------------------------------------------- */

static double seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

/* Two loops and the sweep to the same gradient, the textbook's network with H = 100 and 65 tokens. */
static void compare_times(void) {
    printf("%8s%16s%16s%10s%24s\n", "T", "two loops, ms", "sweep, ms", "times", "largest difference");
    for (int T = 25; T <= 400; T *= 2) {
        struct network nets[2];
        double took[2] = {HUGE_VAL, HUGE_VAL}, difference = 0;
        for (int turn = 0; turn < 3; turn++) {
            forget();
            for (int way = 0; way < 2; way++) {
                struct network* n = &nets[way];
                *n = (struct network){.tokens = 1, .T = T, .B = 1, .D = 65, .H = 100, .Q = 65};
                allocate(n);
                double *x = zeros((size_t)T), *y = zeros((size_t)T), *o = zeros((size_t)(T * n->Q)),
                       *d_o = zeros((size_t)(T * n->Q)), loss = 0;
                unsigned state = 1;
                double* const weights[] = {n->w.W_ih, n->w.W_hh, n->w.W_ho};
                const int counts[] = {n->H * n->D, n->H * n->H, n->Q * n->H};
                for (int k = 0; k < 3; k++)
                    for (int i = 0; i < counts[k]; i++)
                        weights[k][i] = ((state = state * 1664525u + 1013904223u) / 4294967296.0 - 0.5) / 4;
                for (int t = 0; t < T; t++) x[t] = t * 7 % 65, y[t] = t * 11 % 65;
                n->x = x;
                const double start = seconds();
                if (way == 0)
                    two_loops(n, y, T, &loss, o, d_o, NULL);
                else {
                    forward(n);
                    for (int t = 1; t <= T; t++)
                        loss += output_loss(n, n->h + t * n->H, y + t - 1, 1, 1, o + (t - 1) * n->Q, d_o + (t - 1) * n->Q,
                                            n->d_output + t * n->H);
                    sweep(n, &(struct limits){.first = 1, .last = T, .begin = 1}, zeros((size_t)n->H), zeros((size_t)n->H));
                    add_sums(n);
                }
                took[way] = fmin(took[way], seconds() - start);
            }
        }
        for (int i = 0; i < nets[0].H * nets[0].H; i++) difference = fmax(difference, fabs(nets[0].d.W_hh[i] - nets[1].d.W_hh[i]));
        printf("%8d%16.2f%16.2f%10.1f%24.1e\n", T, took[0] * 1e3, took[1] * 1e3, took[0] / took[1], difference);
    }
    forget();
}

int main(int count, char** arguments) {
    if (count == 2 && !strcmp(arguments[1], "time")) return compare_times(), 0;
    int failed = 0;
    printf("%-30s%10s%10s%14s\n", "", "cases", "values", "largest error");
    for (int i = 1; i < count; i++) failed += run_file(arguments[i]);
    if (count < 2) fprintf(stderr, "bptt FILE...: names of files in vectors/; or: bptt time\n");
    return failed || count < 2;
}
