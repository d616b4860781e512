"""Plans of trainings before they run: parameters, FLOPs, memory of a rank, hours and cost (`fewstep plan`).

No file is a component.
"""
