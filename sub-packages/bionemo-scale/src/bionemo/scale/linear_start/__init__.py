"""The linear prediction that the network starts from, fitted to training conditions."""
