"""Train classifiers with and without synthetic images: `medart classify`."""
