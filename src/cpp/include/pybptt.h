/* The C interface: gradients of recurrent networks by backpropagation through time.
 *
 * Letters are those of pybptt/rnn.hpp: T steps, B batch, D inputs, H hidden units, P the width of h_t (H, or proj_size), L layers,
 * K directions, G gates, Q outputs. Arrays are plain memory of the caller's, row-major and time-major, of the network's dtype where
 * the type is void; none may overlap one that is written.
 *
 * Every struct begins with its size, for later versions to know what the caller knows; the fields that are not set must be 0, which
 * always means the usual thing:
 *
 *     pybptt_config config = {.size = sizeof config, .cell = PYBPTT_LSTM, .input_size = 3, .hidden_size = 8, .num_layers = 1};
 *
 * Functions that return a pybptt_status check all that they are given, and compute only then: unless they return PYBPTT_OK, nothing
 * has been written (PYBPTT_STOPPED alone leaves results half done), and pybptt_last_error says what was wrong. Token ids, classes
 * and lengths are copied before they are checked: another thread that writes to them cannot lead a call astray. All functions may
 * be called from several threads at once; handles are not changed by their use. Results do not depend on the number of threads, not
 * by one bit.
 */
#ifndef PYBPTT_H
#define PYBPTT_H

#include <stddef.h>
#include <stdint.h>

#include "pybptt/export.h"
#include "pybptt/version.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pybptt_status {
    PYBPTT_OK = 0,
    PYBPTT_INVALID_ARGUMENT = 1,
    PYBPTT_OUT_OF_RANGE = 2, /* a token or class id: the message has its place */
    PYBPTT_OUT_OF_MEMORY = 3,
    PYBPTT_STOPPED = 4, /* by the progress function */
    PYBPTT_FAILED = 5   /* PYBPTT_TIER or PYBPTT_NUM_THREADS is none, or a child of fork() that has lost its threads */
} pybptt_status;

/* Why the last call on this thread that failed did: valid until the next one fails. */
PYBPTT_API const char* pybptt_last_error(void);
/* Of the library at run time; PYBPTT_VERSION is the header's. */
PYBPTT_API const char* pybptt_version(void);

/* ---- Networks ---- */

enum { PYBPTT_FLOAT32 = 0, PYBPTT_FLOAT64 = 1 };
enum { PYBPTT_ELMAN = 0, PYBPTT_LSTM = 1, PYBPTT_GRU = 2 };
enum { PYBPTT_TANH = 0, PYBPTT_RELU = 1, PYBPTT_SIGMOID = 2, PYBPTT_IDENTITY = 3 };

typedef struct pybptt_config {
    size_t size;
    size_t input_size, hidden_size, num_layers; /* D, H, L: at least 1 */
    size_t proj_size;                           /* P of an LSTM with recurrent projection, below H; 0: none */
    size_t output_size;                         /* Q, of the output layer o_t = W_ho h_t + b_o; 0: there is none */
    double clip;                                /* bound of what the cell's activations receive; 0: none */
    int32_t dtype;                              /* PYBPTT_FLOAT32 or PYBPTT_FLOAT64 */
    int32_t cell;                               /* PYBPTT_ELMAN, PYBPTT_LSTM or PYBPTT_GRU */
    int32_t nonlinearity;                       /* phi of PYBPTT_ELMAN: PYBPTT_TANH, .. */
    /* 0 or 1: */
    int32_t bidirectional;
    int32_t no_bias;      /* of the recurrent layers */
    int32_t peephole;     /* LSTM: i, f and o see the cell state */
    int32_t coupled;      /* LSTM: f = 1 - i; gates in the order i g o */
    int32_t reset_before; /* GRU: W_hn (r h_{t-1}), the form of 2014, in place of r (W_hn h_{t-1}), PyTorch's and cuDNN's */
    int32_t last_only;    /* one output a sequence, from the final states of the last layer */
    int32_t reserved;
} pybptt_config;

typedef struct pybptt_network pybptt_network;

/* A network is its sizes; parameters are given to each call. */
PYBPTT_API pybptt_status pybptt_network_create(const pybptt_config* config, pybptt_network** network);
/* Null is nothing to destroy, here and below. */
PYBPTT_API void pybptt_network_destroy(pybptt_network* network);

/* Parameters lie in one flat array, one after another, with PyTorch's names, shapes and order of gates: of each layer and direction
 * weight_ih_l0 (G H, D), weight_hh_l0 (G H, P), bias_ih_l0, bias_hh_l0, weight_hr_l0 (P, H), weight_peephole_l0 (3, H), then
 * output.weight (Q, K P) and output.bias. Their gradients lie in the same way. */
typedef struct pybptt_parameter {
    size_t size;
    char name[40];
    size_t offset;        /* of its first value in the flat array */
    size_t rows, columns; /* a bias has one column */
} pybptt_parameter;

/* Values in all, and arrays in all; 0 for null. */
PYBPTT_API size_t pybptt_network_parameter_count(const pybptt_network* network);
PYBPTT_API size_t pybptt_network_parameter_arrays(const pybptt_network* network);
PYBPTT_API pybptt_status pybptt_network_parameter(const pybptt_network* network, size_t index, pybptt_parameter* parameter);

/* ---- What calls read and write ---- */

typedef struct pybptt_packed pybptt_packed;

typedef struct pybptt_input {
    size_t size;
    size_t steps, batch;         /* T, B: may be 0 */
    const void* parameters;      /* (parameter_count,) */
    size_t parameter_count;      /* pybptt_network_parameter_count, so that a wrong array is found */
    const pybptt_packed* packed; /* in place of parameters: forward, infer and predict */
    /* One of the two: */
    const void* dense;     /* (T, B, D) */
    const int64_t* tokens; /* (T, B), each in [0, D): columns of W_ih */
    /* Any may be null: */
    const int64_t* lengths;   /* (B,), each in [0, T]: what arrays hold past a sequence's end is not read, outputs there are 0 */
    const void* h_0;          /* (L K, B, P); null for zero */
    const void* c_0;          /* (L K, B, H), LSTM */
    const void* dropout_mask; /* (L - 1, T, B, K P): what a layer's output is multiplied by before the next one reads it */
} pybptt_input;

/* Any may be null: then it is not wanted. */
typedef struct pybptt_output {
    size_t size;
    void* output; /* (T, B, K P): h_1 .. h_T of the last layer; of pybptt_predict o_t, (T, B, Q), or (B, Q) with last_only */
    void* h_n;    /* (L K, B, P): the final state */
    void* c_n;    /* (L K, B, H), LSTM */
    void* cells;  /* (L K, T, B, H): c_t, LSTM; of forward and infer */
} pybptt_output;

/* What a long call may take and whom it tells. */
typedef struct pybptt_options {
    size_t size;
    /* Bytes beside the caller's arrays; 0 for any number. Steps are run again where their tape does not fit; not one bit of a
     * result depends on it. For layers of one direction. Of forward, for the backward pass with that tape, too. */
    size_t memory_limit;
    /* Called on the calling thread after every chunk of steps; other than 0 ends the call. It must return. Null for nobody. */
    int (*progress)(void* progress_data, size_t done, size_t total);
    void* progress_data;
} pybptt_options;

enum { PYBPTT_CLIP_NONE = 0, PYBPTT_CLIP_NORM = 1, PYBPTT_CLIP_VALUE = 2 };

/* How far back derivatives go; all the way, and any size, with zeros. */
typedef struct pybptt_truncation {
    size_t size;
    /* TBPTT(k1, k2), of layers of one direction: at the boundaries t = k1, 2 k1, .. and at a sequence's end, losses of the steps
     * since the boundary before that lie within the last k2 steps go back through the uses t, t-1, .., t-k2+1 of the parameters.
     * (k, k) are blocks with the carried state detached, (1, k + 1) is the textbook's bptt_truncate = k. 0, 0 for none. */
    size_t k1, k2;
    /* (T, B): xi_t, which the derivative of the state at t by the one before is multiplied by: 1 / pi_t with probability pi_t, else
     * 0, is random truncation, 1 / (1 - c_t) or 0 is ARTBP. Not together with k1, k2. Null for 1. */
    const void* factors;
    /* Each row of dL/dh_t is scaled down to a norm of clip_limit, or its values cut off there, before dz_t is made of it. */
    double clip_limit;
    int32_t clip_hidden; /* PYBPTT_CLIP_NONE, .. */
    int32_t reserved;
} pybptt_truncation;

/* Any but parameters may be null: then it is not computed. */
typedef struct pybptt_gradients {
    size_t size;
    void* parameters;       /* (parameter_count,) */
    size_t parameter_count; /* as above */
    void* input;            /* (T, B, D): dL/dx_t, of dense input */
    void* h_0;              /* (L K, B, P) */
    void* c_0;              /* (L K, B, H), LSTM */
    void* hidden;           /* (L K, T, B, P): dL/dh_t, the total derivative */
} pybptt_gradients;

/* ---- Recurrent layers: networks without an output layer ---- */

typedef struct pybptt_tape pybptt_tape;

/* Runs the network and keeps what pybptt_backward needs. options may be null. */
PYBPTT_API pybptt_status pybptt_forward(const pybptt_network* network, const pybptt_input* input, const pybptt_options* options,
                                        const pybptt_output* output, pybptt_tape** tape);
PYBPTT_API size_t pybptt_tape_bytes(const pybptt_tape* tape);
PYBPTT_API void pybptt_tape_destroy(pybptt_tape* tape);

/* Derivatives of the loss by each of forward's results alone; null for zero. */
typedef struct pybptt_upstream {
    size_t size;
    const void* d_output;     /* (T, B, K P) */
    const void* d_h_n;        /* (L K, B, P) */
    const void* d_c_n;        /* (L K, B, H), LSTM */
    const void* d_cells;      /* (L K, T, B, H), LSTM */
    const void* dropout_mask; /* the one that forward was given */
} pybptt_upstream;

/* The sweep. truncation and options may be null; a memory limit is forward's. */
PYBPTT_API pybptt_status pybptt_backward(const pybptt_tape* tape, const pybptt_upstream* upstream,
                                         const pybptt_truncation* truncation, const pybptt_options* options,
                                         const pybptt_gradients* gradients);

/* forward without a tape. */
PYBPTT_API pybptt_status pybptt_infer(const pybptt_network* network, const pybptt_input* input, const pybptt_output* output);

/* ---- Networks with an output layer and a loss ---- */

enum { PYBPTT_MEAN = 0, PYBPTT_SUM = 1 };

/* One of the two arrays. What lies past a sequence's end does not count. */
typedef struct pybptt_targets {
    size_t size;
    const int64_t* classes; /* cross-entropy: (T, B), or (B,) with last_only, each in [0, Q) */
    const void* values;     /* squared error: (T, B, Q), or (B, Q) */
    int32_t reduction;      /* PYBPTT_MEAN, over all targets, or PYBPTT_SUM */
    int32_t reserved;
} pybptt_targets;

/* Loss and gradients in one call. truncation and options may be null, and so may output, of which the final state alone is written.
 * Losses that no window of a truncation reaches (k2 < k1) are not in the loss; the mean divides by all targets. */
PYBPTT_API pybptt_status pybptt_loss_and_grad(const pybptt_network* network, const pybptt_input* input,
                                              const pybptt_targets* targets, const pybptt_truncation* truncation,
                                              const pybptt_options* options, const pybptt_output* output,
                                              const pybptt_gradients* gradients, double* loss);
/* The loss alone. */
PYBPTT_API pybptt_status pybptt_loss(const pybptt_network* network, const pybptt_input* input, const pybptt_targets* targets,
                                     const pybptt_output* output, double* loss);
/* o_t. */
PYBPTT_API pybptt_status pybptt_predict(const pybptt_network* network, const pybptt_input* input, const pybptt_output* output);

/* ---- Packed weights and memory ---- */

/* Weights as products read them, packed once for many short calls: copies. `tokens`, 0 or 1: whether calls are to have token ids as
 * input; then there is a row for each of the D. */
PYBPTT_API pybptt_status pybptt_pack(const pybptt_network* network, const void* parameters, size_t parameter_count, int32_t tokens,
                                     pybptt_packed** packed);
PYBPTT_API void pybptt_packed_destroy(pybptt_packed* packed);

enum { PYBPTT_NO_LOSS = 0, PYBPTT_CROSS_ENTROPY = 1, PYBPTT_SQUARED_ERROR = 2 };

typedef struct pybptt_memory_query {
    size_t size;
    size_t steps, batch;
    const int64_t* lengths; /* (B,), or null */
    size_t memory_limit;    /* 0: none */
    int32_t tokens;         /* 0 or 1: token ids as input */
    int32_t loss;           /* PYBPTT_NO_LOSS: forward and backward; else pybptt_loss_and_grad with that loss */
    int32_t input_gradient; /* 0 or 1: whether dL/dx_t is wanted */
    int32_t reserved;
} pybptt_memory_query;

typedef struct pybptt_memory {
    size_t size;
    size_t bytes;        /* that the call takes; with a limit that is too small for it, the least that it can take */
    size_t chunks, runs; /* forward passes over the whole sequence: runs / chunks */
} pybptt_memory;

/* What a call would take, without truncation; nothing is run. */
PYBPTT_API pybptt_status pybptt_plan_memory(const pybptt_network* network, const pybptt_memory_query* query, pybptt_memory* memory);

/* ---- The linear recurrence a_t = b_t + c_t a_{t-1}, elementwise: see pybptt/scan.hpp ---- */

/* b, c, a: (T, N); a_0: (N,), null for zero. */
PYBPTT_API pybptt_status pybptt_linear_scan(int32_t dtype, size_t steps, size_t columns, const void* b, const void* c,
                                            const void* a_0, void* a);
/* From d_a, (T, N), derivatives by each a_t by itself, those by b, c and a_0. */
PYBPTT_API pybptt_status pybptt_linear_scan_backward(int32_t dtype, size_t steps, size_t columns, const void* d_a, const void* c,
                                                     const void* a, const void* a_0, void* d_b, void* d_c, void* d_a_0);

/* ---- The process ---- */

/* The most threads one call may use: PYBPTT_NUM_THREADS, OMP_NUM_THREADS or the cores at first; 0 if that variable is no number. */
PYBPTT_API int pybptt_get_num_threads(void);
PYBPTT_API pybptt_status pybptt_set_num_threads(int threads);
/* Name of the instruction sets in use; null (and pybptt_last_error) if PYBPTT_TIER names none. */
PYBPTT_API const char* pybptt_tier(void);
/* Gives memory that is kept for the next call back to the system: bytes. */
PYBPTT_API size_t pybptt_release_memory(void);

#ifdef __cplusplus
}
#endif

#endif
