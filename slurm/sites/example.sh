# SPDX-License-Identifier: Apache-2.0
# All that a site file may set; nothing else of Gradus knows a site. Copy it to slurm/sites/SITE.sh, or
# anywhere and give its path: jobs/run CHAIN --slurm --site SITE. It is a bash script, read when jobs are
# submitted and again in every job.

# The time limit of a job that names none by time= on its line of the chain. When it ends, the job stops
# with a checkpoint and queues again, so this says how long a piece is, not how long the training.
site_time=4h

# Slurm tells the ranks to stop that long before the limit. The run itself watches the limit, too
# (run.walltime = auto), with a margin of twice its longest step and checkpoint: this is the second net.
site_lead=5m

# Ranks a node: one a GPU, or one a core.
site_ranks_per_node=4

# Further flags of sbatch, for every job. Words that sbatch does not know end the submission.
site_sbatch=(--partition=gpu --account=abc123 --gpus-per-node=4 --cpus-per-task=16 --exclusive)

# What starts the ranks. --kill-on-bad-exit: where one dies, all end. Binding is srun's affair; a rank takes
# the GPU of its place on the node, so every rank must see all of them (--gpu-bind=none).
site_launcher=(srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=cores --gpu-bind=none)

# What a job needs before the ranks start: modules, paths, variables.
site_environment() {
    module load gcc openmpi hdf5 cuda
    export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
}
