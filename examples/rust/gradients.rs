//! The C interface from Rust: an LSTM learns to spell a word, after its gradients have been compared with central differences.
//!
//!     rustc -O -L native=PREFIX/lib -l pybptt examples/rust/gradients.rs && LD_LIBRARY_PATH=PREFIX/lib ./gradients
//!
//! Types and functions are those of pybptt.h that are used here, in its own order of fields.
use std::ffi::CStr;
use std::mem::{size_of, zeroed};
use std::os::raw::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

#[repr(C)]
struct Config {
    size: usize,
    input_size: usize,
    hidden_size: usize,
    num_layers: usize,
    proj_size: usize,
    output_size: usize,
    clip: f64,
    dtype: i32,
    cell: i32,
    nonlinearity: i32,
    bidirectional: i32,
    no_bias: i32,
    peephole: i32,
    coupled: i32,
    reset_before: i32,
    last_only: i32,
    reserved: i32,
}

#[repr(C)]
struct Input {
    size: usize,
    steps: usize,
    batch: usize,
    parameters: *const c_void,
    parameter_count: usize,
    packed: *const c_void,
    dense: *const c_void,
    tokens: *const i64,
    lengths: *const i64,
    h_0: *const c_void,
    c_0: *const c_void,
    dropout_mask: *const c_void,
}

#[repr(C)]
struct Targets {
    size: usize,
    classes: *const i64,
    values: *const c_void,
    reduction: i32,
    reserved: i32,
}

#[repr(C)]
struct Gradients {
    size: usize,
    parameters: *mut c_void,
    parameter_count: usize,
    input: *mut c_void,
    h_0: *mut c_void,
    c_0: *mut c_void,
    hidden: *mut c_void,
}

#[repr(C)]
struct Network {
    _opaque: [u8; 0],
}

const FLOAT64: i32 = 1;
const LSTM: i32 = 1;
const OUT_OF_RANGE: c_int = 2;

extern "C" {
    fn pybptt_last_error() -> *const c_char;
    fn pybptt_version() -> *const c_char;
    fn pybptt_network_create(config: *const Config, network: *mut *mut Network) -> c_int;
    fn pybptt_network_destroy(network: *mut Network);
    fn pybptt_network_parameter_count(network: *const Network) -> usize;
    fn pybptt_loss(network: *const Network, input: *const Input, targets: *const Targets, output: *const c_void, loss: *mut f64) -> c_int;
    fn pybptt_loss_and_grad(
        network: *const Network,
        input: *const Input,
        targets: *const Targets,
        truncation: *const c_void,
        options: *const c_void,
        output: *const c_void,
        gradients: *const Gradients,
        loss: *mut f64,
    ) -> c_int;
}

fn message() -> String {
    unsafe { CStr::from_ptr(pybptt_last_error()).to_string_lossy().into_owned() }
}

/// A character model in float64: one LSTM layer and an output layer.
struct Model {
    network: *mut Network,
    parameters: Vec<f64>,
}

impl Model {
    fn new(vocabulary: usize, hidden: usize) -> Result<Model, String> {
        let mut network = null_mut();
        // SAFETY: zeros are values of all these structs, and mean the usual thing.
        let status = unsafe {
            let config = Config {
                size: size_of::<Config>(),
                input_size: vocabulary,
                hidden_size: hidden,
                num_layers: 1,
                output_size: vocabulary,
                dtype: FLOAT64,
                cell: LSTM,
                ..zeroed()
            };
            pybptt_network_create(&config, &mut network)
        };
        if status != 0 {
            return Err(message());
        }
        let count = unsafe { pybptt_network_parameter_count(network) };
        let mut state = 1u64; // a generator of random numbers (Knuth's MMIX)
        let parameters = (0..count)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((state >> 40) as f64 / (1u64 << 23) as f64 - 1.0) / (hidden as f64).sqrt()
            })
            .collect();
        Ok(Model { network, parameters })
    }

    fn call<T>(&self, tokens: &[i64], classes: &[i64], work: impl FnOnce(&Input, &Targets) -> (c_int, T)) -> Result<T, (c_int, String)> {
        assert_eq!(tokens.len(), classes.len());
        // SAFETY: the arrays outlive the call, and have the sizes that are said.
        let (status, result) = unsafe {
            let input = Input {
                size: size_of::<Input>(),
                steps: tokens.len(),
                batch: 1,
                parameters: self.parameters.as_ptr().cast(),
                parameter_count: self.parameters.len(),
                tokens: tokens.as_ptr(),
                ..zeroed()
            };
            let targets = Targets { size: size_of::<Targets>(), classes: classes.as_ptr(), ..zeroed() };
            work(&input, &targets)
        };
        if status == 0 { Ok(result) } else { Err((status, message())) }
    }

    fn loss(&self, tokens: &[i64], classes: &[i64]) -> Result<f64, (c_int, String)> {
        self.call(tokens, classes, |input, targets| {
            let mut loss = 0.0;
            (unsafe { pybptt_loss(self.network, input, targets, null(), &mut loss) }, loss)
        })
    }

    fn loss_and_grad(&self, tokens: &[i64], classes: &[i64]) -> Result<(f64, Vec<f64>), (c_int, String)> {
        self.call(tokens, classes, |input, targets| {
            let (mut loss, mut gradient) = (0.0, vec![0.0; self.parameters.len()]);
            let status = unsafe {
                let gradients = Gradients {
                    size: size_of::<Gradients>(),
                    parameters: gradient.as_mut_ptr().cast(),
                    parameter_count: gradient.len(),
                    ..zeroed()
                };
                pybptt_loss_and_grad(self.network, input, targets, null(), null(), null(), &gradients, &mut loss)
            };
            (status, (loss, gradient))
        })
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        unsafe { pybptt_network_destroy(self.network) }
    }
}

fn main() {
    println!("pybptt {}", unsafe { CStr::from_ptr(pybptt_version()) }.to_string_lossy());
    let word: Vec<i64> = "backpropagation".bytes().map(|letter| (letter - b'a') as i64).collect();
    let (tokens, classes) = (&word[..word.len() - 1], &word[1..]);
    let mut model = Model::new(26, 16).unwrap();

    let (_, gradient) = model.loss_and_grad(tokens, classes).unwrap();
    let mut worst = 0f64;
    for i in (0..gradient.len()).step_by(7) {
        let (step, value) = (1e-5, model.parameters[i]);
        model.parameters[i] = value + step;
        let above = model.loss(tokens, classes).unwrap();
        model.parameters[i] = value - step;
        let below = model.loss(tokens, classes).unwrap();
        model.parameters[i] = value;
        worst = worst.max((gradient[i] - (above - below) / (2.0 * step)).abs());
    }
    println!("largest difference from central differences: {:.1e}", worst);
    assert!(worst < 1e-9);

    let before = model.loss(tokens, classes).unwrap();
    for _ in 0..300 {
        let (_, gradient) = model.loss_and_grad(tokens, classes).unwrap();
        for (parameter, slope) in model.parameters.iter_mut().zip(&gradient) {
            *parameter -= 2.0 * slope;
        }
    }
    let after = model.loss(tokens, classes).unwrap();
    println!("loss before and after training: {:.3}, {:.3}", before, after);
    assert!(after < 0.1 * before);

    let (status, error) = model.loss(&[0, 26], &[0, 0]).unwrap_err();
    println!("a token that is none: {}", error);
    assert_eq!(status, OUT_OF_RANGE);
    assert_eq!(error, "input.tokens: expected ids in [0, 26), got 26 at [1, 0]");
    assert!(Model::new(0, 16).is_err());
}
