"""The networks: U-Net, ResNet, DCGAN, deep image priors, Inception; and loading weights exactly."""
