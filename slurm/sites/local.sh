# SPDX-License-Identifier: Apache-2.0
# A machine that is its own cluster: no accounts, no modules, ranks on its cores.
site_ranks_per_node=$(nproc)
site_environment() { . "$here/environment"; }
