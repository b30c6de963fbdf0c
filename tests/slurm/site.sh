# SPDX-License-Identifier: Apache-2.0
# The site of the tests: cluster.bash.
site_time=10m
site_ranks_per_node=2
site_sbatch=(--partition=all ${TEST_NODE:+"--nodelist=$TEST_NODE"})
site_environment() { . "$here/environment"; }
