"""Task gradients as factors: measured and merged without forming them.

The gradient of a weight that enters products is a product itself, ``Σ Uᵀ V`` over its uses: one of the two was saved by
the forward and is the same for all tasks, the other is the gradient of the product's output, one for each task. So
``G_ij = Σ_rs (V Vᵀ)_rs (U_i U_jᵀ)_rs`` needs R×R products of rows instead of T gradients of the weight's size, and the
merged gradient is ``(Σ_t w_t U_t)ᵀ V``, one product. R is the number of rows: samples times positions.

For losses of single samples the same products are known from private training as "ghost norms" (Li, Tramèr, Liang,
Hashimoto: Large Language Models Can Be Strong Differentially Private Learners, ICLR 2022).
"""
