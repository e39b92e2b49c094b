"""Host side: network, importer, quantisation, golden model, compiler, command line."""
