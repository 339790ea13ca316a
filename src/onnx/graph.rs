//! [`Graph`]: a computation under construction.

use tch::{Kind, Tensor};

use super::proto::{
    Attribute, Dimension, GraphProto, Node, Shape, Size, TensorProto, TensorType, Type, ValueInfo,
};

/// What a node gives or takes, by its name in the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value(String);

/// Nodes and weights of a computation in float32 whose inputs' first dimension is the batch, of any size.
#[derive(Default)]
pub struct Graph {
    nodes: Vec<Node>,
    inputs: Vec<ValueInfo>,
    outputs: Vec<ValueInfo>,
    /// The weights by their names, float32 or int64.
    pub(super) weights: Vec<(String, Tensor)>,
}

impl Graph {
    /// An input `[batch, …]`.
    pub fn input(&mut self, name: &str, of_one: &[i64]) -> Value {
        self.inputs.push(described(name, of_one));
        Value(name.to_string())
    }

    /// Has `value`, `[batch, …]`, be the output of this name.
    pub fn output(&mut self, name: &str, of_one: &[i64], value: &Value) {
        self.nodes.push(Node {
            input: vec![value.0.clone()],
            output: vec![name.to_string()],
            name: name.to_string(),
            op_type: "Identity".into(),
            attribute: Vec::new(),
        });
        self.outputs.push(described(name, of_one));
    }

    /// A weight, float32 or int64.
    pub fn weight(&mut self, name: &str, tensor: &Tensor) -> Value {
        self.weights.push((name.to_string(), tensor.contiguous()));
        Value(name.to_string())
    }

    /// Whole numbers that an operator takes as an input.
    fn whole(&mut self, numbers: &[i64]) -> Value {
        let name =
            format!("numbers_{}", numbers.iter().map(i64::to_string).collect::<Vec<_>>().join("_"));
        if !self.weights.iter().any(|(known, _)| *known == name) {
            self.weights.push((name.clone(), Tensor::from_slice(numbers)));
        }
        Value(name)
    }

    fn number(&mut self, number: f64) -> Value {
        let name = format!("number_{number}");
        if !self.weights.iter().any(|(known, _)| *known == name) {
            self.weights.push((name.clone(), Tensor::from(number as f32)));
        }
        Value(name)
    }

    /// A node of this operator, which gives `outputs` values.
    fn nodes(
        &mut self,
        operator: &str,
        inputs: &[&Value],
        attributes: &[Attribute],
        outputs: usize,
    ) -> Vec<Value> {
        let name = format!("{}_{}", operator.to_lowercase(), self.nodes.len());
        let output: Vec<String> = match outputs {
            1 => vec![name.clone()],
            _ => (0..outputs).map(|index| format!("{name}_{index}")).collect(),
        };
        self.nodes.push(Node {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: output.clone(),
            name,
            op_type: operator.to_string(),
            attribute: attributes.to_vec(),
        });
        output.into_iter().map(Value).collect()
    }

    fn node(&mut self, operator: &str, inputs: &[&Value], attributes: &[Attribute]) -> Value {
        self.nodes(operator, inputs, attributes, 1).swap_remove(0)
    }

    pub fn add(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Add", &[a, b], &[])
    }

    pub fn multiply(&mut self, a: &Value, b: &Value) -> Value {
        self.node("Mul", &[a, b], &[])
    }

    /// Every number times this one.
    pub fn scale(&mut self, value: &Value, factor: f64) -> Value {
        let factor = self.number(factor);
        self.multiply(value, &factor)
    }

    /// The product over the last dimension of `a` and the last but one of `b`.
    pub fn product(&mut self, a: &Value, b: &Value) -> Value {
        self.node("MatMul", &[a, b], &[])
    }

    /// Images `[B, 3, H, W]` cut into squares of `size` pixels, each multiplied by `kernel` `[D, 3, size, size]`.
    pub fn convolve(&mut self, images: &Value, kernel: &Value, bias: &Value, size: i64) -> Value {
        let sizes = |name: &str| ints(name, &[size, size]);
        self.node("Conv", &[images, kernel, bias], &[sizes("kernel_shape"), sizes("strides")])
    }

    /// Another shape; 0 keeps a size.
    pub fn reshape(&mut self, value: &Value, shape: &[i64]) -> Value {
        let shape = self.whole(shape);
        self.node("Reshape", &[value, &shape], &[])
    }

    pub fn permute(&mut self, value: &Value, order: &[i64]) -> Value {
        self.node("Transpose", &[value], &[ints("perm", order)])
    }

    /// Values behind one another along a dimension.
    pub fn join(&mut self, values: &[&Value], dimension: i64) -> Value {
        self.node("Concat", values, &[int("axis", dimension)])
    }

    /// Parts of these sizes along a dimension.
    pub fn split(&mut self, value: &Value, sizes: &[i64], dimension: i64) -> Vec<Value> {
        let split = self.whole(sizes);
        self.nodes("Split", &[value, &split], &[int("axis", dimension)], sizes.len())
    }

    /// `value` `[1, …]` once for each image of `like`, `of_one` being its shape without the first dimension.
    pub fn for_each(&mut self, value: &Value, of_one: &[i64], like: &Value) -> Value {
        let batch = self.node("Shape", &[like], &[int("start", 0), int("end", 1)]);
        let rest = self.whole(of_one);
        let shape = self.join(&[&batch, &rest], 0);
        self.node("Expand", &[value, &shape], &[])
    }

    pub fn layer_norm(&mut self, value: &Value, weight: &Value, bias: &Value, eps: f64) -> Value {
        let attributes = [int("axis", -1), float("epsilon", eps)];
        self.node("LayerNormalization", &[value, weight, bias], &attributes)
    }

    pub fn softmax(&mut self, value: &Value) -> Value {
        self.node("Softmax", &[value], &[int("axis", -1)])
    }

    /// The mean over the second dimension, which goes.
    pub fn mean_of_tokens(&mut self, value: &Value) -> Value {
        self.node("ReduceMean", &[value], &[ints("axes", &[1]), int("keepdims", 0)])
    }

    /// x · (1 + erf(x / √2)) / 2 (Hendrycks & Gimpel, 2016), which operator set 17 has no operator for.
    pub fn gelu(&mut self, value: &Value) -> Value {
        let scaled = self.scale(value, std::f64::consts::FRAC_1_SQRT_2);
        let erf = self.node("Erf", &[&scaled], &[]);
        let one = self.number(1.0);
        let raised = self.add(&erf, &one);
        let both = self.multiply(value, &raised);
        self.scale(&both, 0.5)
    }

    /// x · sigmoid(x).
    pub fn silu(&mut self, value: &Value) -> Value {
        let gate = self.node("Sigmoid", &[value], &[]);
        self.multiply(value, &gate)
    }

    /// The graph but for its weights, which are `weights`.
    pub(super) fn proto(&self, weights: Vec<TensorProto>) -> GraphProto {
        GraphProto {
            node: self.nodes.clone(),
            name: "encoder".into(),
            initializer: weights,
            input: self.inputs.clone(),
            output: self.outputs.clone(),
        }
    }
}

/// How a weight's kind is called.
pub(super) fn data_type(tensor: &Tensor) -> i32 {
    match tensor.kind() {
        Kind::Int64 => TensorProto::INT64,
        _ => TensorProto::FLOAT,
    }
}

/// A float32 input or output of any batch.
fn described(name: &str, of_one: &[i64]) -> ValueInfo {
    let batch = Dimension { size: Some(Size::Named("batch".into())) };
    let fixed = of_one.iter().map(|&size| Dimension { size: Some(Size::Fixed(size)) });
    let shape = Shape { dim: std::iter::once(batch).chain(fixed).collect() };
    let tensor = TensorType { elem_type: TensorProto::FLOAT, shape: Some(shape) };
    ValueInfo { name: name.to_string(), kind: Some(Type { tensor: Some(tensor) }) }
}

fn int(name: &str, value: i64) -> Attribute {
    Attribute { name: name.into(), i: value, kind: Attribute::INT, ..Attribute::default() }
}

fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute {
        name: name.into(),
        ints: values.to_vec(),
        kind: Attribute::INTS,
        ..Attribute::default()
    }
}

fn float(name: &str, value: f64) -> Attribute {
    Attribute { name: name.into(), f: value as f32, kind: Attribute::FLOAT, ..Attribute::default() }
}
